"""The engine as an event stream: both arms, stopping, failing, refusing."""

from __future__ import annotations

import json
import shutil
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished, StageFinished, Stepped
from lssgen.families.folders import ASSETS, upsampler_folder
from lssgen.families.table import ModelError
from lssgen.request import GenerationRequest
from lssgen.worker import in_worker

REQUEST = GenerationRequest(prompt="a red apple", height=128, width=128, start=64, steps=8)


def finished(events):
    return {e.arm: e for e in events if isinstance(e, ArmFinished)}


def test_compare_runs_lssgen_then_the_baseline(tiny_engine):
    events = list(tiny_engine.compare(REQUEST))
    assert [e.arm for e in events if isinstance(e, ArmFinished)] == ["lssgen", "baseline"]
    assert all(e.images[0].size == (128, 128) for e in finished(events).values())


def test_generate_runs_lssgen_alone(tiny_engine):
    assert list(finished(tiny_engine.generate(REQUEST))) == ["lssgen"]


def test_pixel_baseline_shares_the_first_stage(tiny_engine):
    arms = finished(tiny_engine.compare(replace(REQUEST, baseline="pixel")))
    first = [np.asarray(arm.stages[0].images[0]) for arm in arms.values()]
    assert np.array_equal(*first)
    assert arms["baseline"].seconds.upsample > 0


@pytest.mark.parametrize("how", ["close", "stop"])
def test_a_run_ends_within_one_step(tiny_engine, how):
    """The transformer is called at most once more after the stream is closed or `stop` is set."""
    transformer = tiny_engine.load().adapter.pipe.transformer
    calls, stop = [], threading.Event()
    handle = transformer.register_forward_hook(lambda *args: calls.append(1))
    try:
        events = tiny_engine.compare(replace(REQUEST, steps=400), stop)
        next(e for e in events if isinstance(e, Stepped))
        before = len(calls)
        if how == "close":
            events.close()
        else:
            stop.set()
            assert not finished(events)
        in_worker(lambda: None)  # its turn comes when the run is over
        assert len(calls) - before <= 1
    finally:
        handle.remove()
    assert finished(tiny_engine.compare(REQUEST)).keys() == {"lssgen", "baseline"}


def test_stop_before_the_first_stage_runs_nothing(tiny_engine):
    stop = threading.Event()
    stop.set()
    assert list(tiny_engine.compare(REQUEST, stop)) == []


def test_an_event_set_belongs_to_its_owner(tiny_engine):
    """A run that ended by itself must not leave the caller's stop set: a second run would silently be empty."""
    stop = threading.Event()
    assert finished(tiny_engine.compare(REQUEST, stop))
    assert not stop.is_set()


def test_the_listeners_time_is_charged_to_no_arm(tiny_engine):
    """Once the first arm's pictures were written beside the second arm's steps."""
    events, longest = tiny_engine.compare(REQUEST), 0.0
    for event in events:
        if isinstance(event, ArmFinished):
            longest = max(longest, event.seconds.preview)
        time.sleep(0.05)
    assert longest >= 8 * 0.05


def test_the_baseline_can_go_first(tiny_engine):
    order = [e.arm for e in tiny_engine.compare(REQUEST, baseline_first=True) if isinstance(e, ArmFinished)]
    assert order == ["baseline", "lssgen"]


def test_an_abandoned_stream_frees_the_engine(tiny_engine):
    events = tiny_engine.compare(REQUEST)
    next(events)
    del events
    assert finished(tiny_engine.compare(REQUEST))


def test_a_failing_arm_leaves_the_other_and_what_was_made(tiny_folder, monkeypatch):
    engine = Engine(str(tiny_folder), "cpu")
    upsample = engine.load().upsampler.upsample

    def broken(*args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine.load().upsampler, "upsample", broken)
    events = list(engine.compare(REQUEST))
    (failure,) = [e for e in events if isinstance(e, ArmFailed)]
    assert failure.arm == "lssgen"
    assert "shapes do not match" in failure.message
    assert [e.arm for e in events if isinstance(e, StageFinished)] == ["lssgen", "baseline"]
    assert list(finished(events)) == ["baseline"]
    monkeypatch.setattr(engine.load().upsampler, "upsample", upsample)
    assert set(finished(engine.compare(REQUEST))) == {"lssgen", "baseline"}


def test_refusals_come_before_anything_runs(tiny_engine):
    with pytest.raises(ValueError, match="multiple of 8"):
        tiny_engine.compare(replace(REQUEST, height=100))
    with pytest.raises(ValueError, match="built in: leave it out"):
        tiny_engine.compare(replace(REQUEST, guidance_scale=3.0))


def test_no_memory_is_told_with_what_would_help(tiny_folder, monkeypatch):
    """It read "restore its files", or showed the allocator's own words."""
    engine = Engine(str(tiny_folder), "cpu")

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(engine.load().upsampler, "upsample", full)
    (failure,) = [e for e in engine.generate(REQUEST) if isinstance(e, ArmFailed)]
    assert failure.message.startswith("there is not enough memory for 128 x 128 on cpu; use --dtype bfloat16")
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", full)
    with pytest.raises(ModelError, match="does not fit into the memory of cpu; use --dtype bfloat16"):
        Engine(str(tiny_folder), "cpu").load()


def test_unloading_frees_the_weights_and_the_next_run_loads_them(tiny_folder):
    engine = Engine(str(tiny_folder), "cpu")
    transformer = weakref.ref(engine.load().adapter.pipe.transformer)
    engine.unload()
    assert not engine.loaded
    assert transformer() is None
    assert set(finished(engine.compare(REQUEST))) == {"lssgen", "baseline"}


def test_an_upsampler_can_be_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "upsampler").rename(tmp_path / "mine")
    engine = Engine(str(folder), "cpu", upsampler=tmp_path / "mine")
    assert engine.plan(REQUEST).stages
    assert engine.load().upsampler is not None
    with pytest.raises(ValueError, match="no upsampler at"):
        Engine(str(folder), "cpu", upsampler=tmp_path / "nothing")


def test_an_upsampler_of_other_latents_is_refused_before_anything_is_loaded(tmp_path):
    """With as many channels it once ran, and drew garbage."""
    own, other = ASSETS / "embedded" / "upsampler", tmp_path / "other"
    assert upsampler_folder("embedded") == upsampler_folder("embedded", own) == own
    shutil.copytree(own, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vae": "flux1"}))
    with pytest.raises(ModelError, match="for the latents of 'flux1'; this model's are of 'embedded'"):
        Engine("embedded", "cpu", upsampler=other)


def test_missing_model_is_refused_at_construction(tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        Engine(str(tmp_path))


def test_all_network_calls_happen_in_one_thread(tiny_folder):
    """Each further thread that computes has an OpenMP team of its own, and the teams slow each other down."""
    engine, seen = Engine(str(tiny_folder), "cpu"), set()
    engine.warm_up(REQUEST)
    transformer = engine.load().adapter.pipe.transformer
    handle = transformer.register_forward_hook(lambda *args: seen.add(threading.current_thread().name))
    try:
        engine.warm_up(REQUEST)
        list(engine.compare(REQUEST))
        other = threading.Thread(target=lambda: list(engine.generate(REQUEST)))
        other.start()
        other.join()
    finally:
        handle.remove()
    assert seen == {"lssgen-worker"}


def test_two_runs_at_once_take_turns(tiny_engine):
    """The stock scheduler is swapped during a run, so runs must not overlap."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(finished(tiny_engine.compare(REQUEST)))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = (np.asarray(r["lssgen"].images[0]) for r in results)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("fields", [{}, {"start": 48, "schedule": "split", "split": 0.5}, {"baseline": "pixel"}])
def test_warm_up_runs_each_planned_size_once_for_one_seed(tiny_engine, fields):
    """Once it always warmed the paper rule's sizes, refused targets those do not divide, and ran all seeds at once."""
    request = replace(REQUEST, seeds=(1, 2, 3), **fields)
    seen = []
    transformer = tiny_engine.load().adapter.pipe.transformer
    handle = transformer.register_forward_hook(lambda *args: seen.append(tuple(args[-1][0].shape[:2])))
    try:
        tiny_engine.warm_up(request)
    finally:
        handle.remove()
    plan = tiny_engine.plan(request)
    assert seen == [(1, s.height * s.width // 64) for s in (*plan.stages, *plan.baseline)]


def test_learned_is_refused_at_once_where_there_is_no_upsampler(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.rmtree(folder / "upsampler")
    engine = Engine(str(folder), "cpu")
    with pytest.raises(ValueError, match="use 'bicubic' or 'pixel'"):
        engine.plan(REQUEST)
    assert engine.plan(replace(REQUEST, upsampler="bicubic")).stages
    assert engine.plan(replace(REQUEST, start=128)).stages


def test_a_record_names_the_upsampler_from_the_top_of_this_repository(tiny_folder):
    assert Engine("embedded", "cpu").facts(REQUEST) == {
        "model": "embedded", "device": "cpu", "dtype": "float32", "upsampler_from": "assets/embedded/upsampler",
    }  # fmt: skip
    engine = Engine(str(tiny_folder), "cpu", dtype="bfloat16")
    assert engine.facts(REQUEST)["upsampler_from"] == f"{tiny_folder}/upsampler"
    assert "upsampler_from" not in engine.facts(replace(REQUEST, upsampler="pixel"))
