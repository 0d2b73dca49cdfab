"""The staged run: events, timings, noise, upsampling."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from lssgen.events import StageFinished, StageStarted, Stepped
from lssgen.latents import coupled_noise
from lssgen.request import UPSAMPLERS, GenerationRequest
from lssgen.sampler import Clock, NoiseSource, Stopped, enlarge, run_arm
from lssgen.schedule import plan

REQUEST = GenerationRequest(prompt="a red apple", height=128, width=96, start=48, steps=8)


@pytest.fixture
def run(tiny_model, tiny_source):
    def run(request=REQUEST, upsampler="learned", model=tiny_model, **options):
        stages = plan(request, tiny_source).stages
        return run_arm(model, request, stages, arm="lssgen", upsampler=upsampler, **options)

    return run


def test_events_come_in_order_and_carry_pictures(run):
    events = []
    finished = run(emit=events.append)
    assert [s.num_steps for s in finished.stages] == [3, 5]
    assert [type(e) for e in events] == [
        *[StageStarted, *[Stepped] * 3, StageFinished],
        *[StageStarted, *[Stepped] * 5, StageFinished],
    ]
    assert [e.images[0].size for e in events if isinstance(e, StageFinished)] == [(48, 64), (96, 128)]
    assert [e.preview.size for e in events if isinstance(e, Stepped)] == [(12, 16)] * 3 + [(24, 32)] * 5
    assert finished.images == finished.stages[-1].images


def test_three_stages_at_free_sizes(run):
    request = replace(REQUEST, height=128, width=128, start=48, schedule="split", split=0.6)
    finished = run(request)
    assert [(s.height, s.num_steps) for s in finished.stages] == [(48, 3), (96, 2), (128, 3)]


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler_reaches_the_size_in_its_own_way(tiny_model, tiny_source, upsampler):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    stage = plan(replace(REQUEST, height=64, width=64, start=64), tiny_source).stages[0]
    larger = enlarge(tiny_model, latents, stage, upsampler)
    assert larger.shape == (1, 4, 16, 16)
    assert torch.isfinite(larger).all()
    others = [enlarge(tiny_model, latents, stage, other) for other in UPSAMPLERS if other != upsampler]
    assert not any(torch.equal(larger, other) for other in others)


def test_fork_only_the_upsampler_differs(run):
    """One low-resolution latent, several enlargements: the first stages are equal, the pictures are not."""
    learned, bicubic = run(), run(upsampler="bicubic")
    assert np.array_equal(*(np.asarray(r.stages[0].images[0]) for r in (learned, bicubic)))
    assert not np.array_equal(*(np.asarray(r.images[0]) for r in (learned, bicubic)))


def test_learned_without_an_upsampler_names_what_works(run, tiny_model):
    with pytest.raises(ValueError, match="'bicubic' or 'pixel'"):
        run(model=replace(tiny_model, upsampler=None))


def test_coupled_noise_is_the_baselines_own(tiny_model):
    noise = NoiseSource(tiny_model.adapter, replace(REQUEST, height=128, width=128))
    full = tiny_model.adapter.noise([torch.Generator().manual_seed(0)], 128, 128)
    assert torch.equal(noise.at(128, 128), full)
    assert torch.equal(noise.at(64, 64), coupled_noise(full, 16, 16))


def test_fresh_noise_is_unrelated_between_stages_and_reproducible(tiny_model):
    first, again = (NoiseSource(tiny_model.adapter, replace(REQUEST, noise="fresh")) for _ in range(2))
    low, high = first.at(64, 64), first.at(128, 128)
    assert torch.equal(low, again.at(64, 64))
    correlation = (coupled_noise(high, 16, 16) * low).mean()
    assert abs(correlation) < 4 / low.numel() ** 0.5


def test_seeds_decide_the_picture(run):
    pictures = [np.asarray(run(replace(REQUEST, seeds=(s,))).images[0]) for s in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_preview_time_is_outside_every_other_phase():
    clock = Clock(torch.device("cpu"))
    with clock.phase("total"), clock.phase("denoise"):
        time.sleep(0.01)
        with clock.phase("preview"):
            time.sleep(0.2)
    assert clock.spent["preview"] >= 0.2
    assert clock.spent["denoise"] < 0.1
    assert clock.spent["total"] < 0.1


def test_a_slow_listener_does_not_slow_the_figures(run):
    seconds = run(emit=lambda event: time.sleep(0.1)).seconds
    assert seconds.preview >= 12 * 0.1
    assert seconds.text + seconds.denoise + seconds.upsample + seconds.decode <= seconds.total


def test_stop_is_asked_before_each_stage_and_never_throws_away_a_finished_arm(run):
    """Once asked for during the last decode, it came after all the work and lost the whole arm."""
    with pytest.raises(Stopped):
        run(stopped=lambda: True)
    events = []
    finished = run(
        emit=events.append, stopped=lambda: any(isinstance(e, StageFinished) and e.index == 1 for e in events)
    )
    assert len(finished.stages) == 2
