"""The engine as an event stream: both arms, stopping, failing, refusing."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished, StageFinished, Stepped
from lssgen.families.table import ModelError
from lssgen.request import GenerationRequest

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


def test_closing_the_stream_stops_within_one_step(tiny_engine):
    """The transformer is called at most once more after the stream is closed."""
    transformer = tiny_engine.load().adapter.pipe.transformer
    calls = []
    handle = transformer.register_forward_hook(lambda *args: calls.append(1))
    try:
        events = tiny_engine.compare(replace(REQUEST, steps=400))
        next(e for e in events if isinstance(e, Stepped))
        before = len(calls)
        events.close()
        after = len(calls)
    finally:
        handle.remove()
    assert after - before <= 1 + 1  # one step may already have been under way when the event was read
    assert not any(t.name == "lssgen-run" for t in threading.enumerate())
    assert finished(tiny_engine.compare(REQUEST)).keys() == {"lssgen", "baseline"}


def test_a_failing_arm_leaves_the_other_and_what_was_made(tiny_folder, monkeypatch):
    engine = Engine(str(tiny_folder), "cpu")
    upsample = engine.load().upsampler.upsample

    def broken(*args):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(engine.load().upsampler, "upsample", broken)
    events = list(engine.compare(REQUEST))
    (failure,) = [e for e in events if isinstance(e, ArmFailed)]
    assert failure.arm == "lssgen"
    assert "out of memory" in failure.message
    assert [e.arm for e in events if isinstance(e, StageFinished)] == ["lssgen", "baseline"]
    assert list(finished(events)) == ["baseline"]
    monkeypatch.setattr(engine.load().upsampler, "upsample", upsample)
    assert set(finished(engine.compare(REQUEST))) == {"lssgen", "baseline"}


def test_refusals_come_before_anything_runs(tiny_engine):
    with pytest.raises(ValueError, match="multiple of 8"):
        tiny_engine.compare(replace(REQUEST, height=100))
    with pytest.raises(ValueError, match="built in: leave it out"):
        tiny_engine.compare(replace(REQUEST, guidance_scale=3.0))


def test_missing_model_is_refused_at_construction(tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        Engine(str(tmp_path))


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


def test_warm_up_runs_the_sizes_asked(tiny_engine):
    sizes = []
    compare = tiny_engine.compare
    tiny_engine.compare = lambda request: sizes.append(request) or compare(request)
    try:
        tiny_engine.warm_up(REQUEST)
    finally:
        del tiny_engine.compare
    assert (sizes[0].height, sizes[0].start, sizes[0].steps) == (128, 64, 2)
