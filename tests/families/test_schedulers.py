"""Probe, tail and noise levels with every scheduler that is let in, on a tiny SDXL."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from lssgen.families.base import Model
from lssgen.families.schedulers import EDM_FORM, VP_FORM, make_scheduler, process_of
from lssgen.families.sdxl import SDXLAdapter
from lssgen.families.source import Source
from lssgen.families.table import ModelError
from lssgen.latents import renoise
from lssgen.process import Process
from lssgen.request import GenerationRequest
from lssgen.sampler import run_arm
from lssgen.schedule import plan
from tests.families.tiny import SCALED_LINEAR, build

KARRAS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")  # have no betas


@pytest.fixture(params=[*EDM_FORM, *VP_FORM])
def name(request) -> str:
    return request.param


@pytest.fixture
def adapter(name) -> SDXLAdapter:
    pipe = build("sdxl")
    more = {} if name in KARRAS else {k: v for k, v in SCALED_LINEAR.items() if k != "steps_offset"}
    pipe.scheduler = getattr(diffusers, name)(**more)
    return SDXLAdapter(pipe)


@pytest.fixture
def source(adapter, name) -> Source:
    scheduler = {**adapter.pipe.scheduler.config, "_class_name": name}
    return Source("sdxl", SDXLAdapter, scheduler, dict(adapter.denoiser.config), 4, 77, base_side=64)


def make(**fields) -> GenerationRequest:
    return GenerationRequest(
        **{"prompt": "a red apple", "height": 64, "width": 64, "start": 32, "steps": 8, "upsampler": "bicubic"} | fields
    )


def test_one_stage_equals_the_stock_call(adapter, source):
    """With the steps' own noise too, where the scheduler adds some."""
    made = plan(make(start=64), source)
    ours = run_arm(Model(adapter), make(start=64), made.stages, arm="lssgen", upsampler="bicubic").images[0]
    theirs = adapter.pipe(
        "a red apple", height=64, width=64, num_inference_steps=8, generator=[torch.Generator().manual_seed(0)]
    ).images[0]
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("schedule", [{}, {"schedule": "split", "split": 0.5, "sigma": 0.5}])
def test_two_stages_run_the_planned_tail(adapter, source, schedule, monkeypatch):
    seen, scheduler = [], type(adapter.pipe.scheduler)
    step = scheduler.step

    def spy(self, model_output, timestep, *arguments, **named):
        seen.append(float(timestep))
        return step(self, model_output, timestep, *arguments, **named)

    monkeypatch.setattr(scheduler, "step", spy)
    stages = plan(make(**schedule), source).stages
    finished = run_arm(Model(adapter), make(**schedule), stages, arm="lssgen", upsampler="bicubic")
    assert seen == pytest.approx([t for stage in stages for t in stage.timesteps])
    assert stages[1].is_tail
    assert np.isfinite(np.asarray(finished.images[0], float)).all()


def test_a_perfect_denoiser_reaches_the_picture_from_the_tail(adapter, source, monkeypatch):
    """The last step ends in x0, without noise: what LCM would add if it took the tail's last step for another."""
    x0 = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.3
    stage = plan(make(sigma=0.5), source).stages[1]
    latents = renoise(x0, torch.randn(1, 4, 16, 16), stage.sigmas[0], stage.process)
    at = dict(zip(stage.timesteps, stage.sigmas, strict=False))
    current = [latents]

    def exact(sample, timestep, **given):
        sigma = at[float(timestep)]
        signal, amplitude = stage.process.mix(sigma)
        if adapter.pipe.scheduler.config.get("prediction_type") == "epsilon" and not karras:
            x = current[0][:1]
            noise = (x - signal * x0) / amplitude
            return (noise.repeat(len(sample), 1, 1, 1),)
        raise AssertionError

    karras = "EDM" in type(adapter.pipe.scheduler).__name__
    if karras:
        pytest.skip("predicts through a preconditioning of its own")
    monkeypatch.setattr(adapter.denoiser, "forward", exact)

    def keep(index, after):
        current[0] = after()

    made = adapter.denoise(stage, latents, adapter.encode("a", "", 1, 1.0), 1.0, keep, [torch.Generator()])
    assert (made - x0).square().mean().sqrt() < 0.04  # DDIM and DEIS stop at a small sigma


def test_noise_levels_are_the_schedulers_own(adapter, source):
    stage = plan(make(sigma=0.5), source).stages[1]
    scheduler = adapter.pipe.scheduler
    scheduler.set_timesteps(stage.schedule_steps)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 4, 8, 8, generator=generator)
    at = scheduler.timesteps[stage.schedule_steps - stage.num_steps].view(1)
    theirs = scheduler.add_noise(x0, eps, at)
    torch.testing.assert_close(renoise(x0, eps, stage.sigmas[0], stage.process), theirs, atol=1e-4, rtol=1e-4)
    assert stage.process is process_of(scheduler) is not Process.FLOW


def test_a_scheduler_of_two_calls_a_step_is_refused():
    with pytest.raises(ModelError, match=r"HeunDiscreteScheduler; give the model one of .*EulerDiscreteScheduler"):
        make_scheduler({"_class_name": "HeunDiscreteScheduler"})


def test_flow_sigmas_make_a_flow_of_any_solver():
    assert process_of(make_scheduler({"_class_name": "DPMSolverMultistepScheduler"})) is Process.VP
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        assert process_of(make_scheduler({"_class_name": name, "use_flow_sigmas": True})) is Process.FLOW
