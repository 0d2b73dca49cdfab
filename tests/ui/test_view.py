"""Folding a run's events into the view: real events of the tiny model."""

from dataclasses import replace

import pytest

from lssgen.events import ArmFailed, ArmFinished, Scored, StageFinished
from lssgen.request import GenerationRequest
from lssgen.scoring import Score
from lssgen.ui.view import DONE, FAILED, RUNNING, STOPPED, WAITING, advance, begin, finish

REQUEST = GenerationRequest(prompt="a red apple", height=128, width=128, start=64, steps=4)


@pytest.fixture(scope="module")
def events(tiny_engine):
    return list(tiny_engine.compare(REQUEST))


@pytest.fixture
def state(tiny_engine):
    return begin(REQUEST, tiny_engine.plan(REQUEST), {})


def test_a_whole_run_ends_done_with_both_pictures(state, events):
    fractions = []
    for event in events:
        state = advance(state, event)
        fractions.append(state.lssgen.fraction + state.baseline.fraction)
    state = finish(state)
    assert state.phase == DONE
    assert state.lssgen.result.images[0].size == state.baseline.result.images[0].size == (128, 128)
    assert [(s.width, s.height) for s in state.lssgen.stages] == [(64, 64), (128, 128)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 2.0
    assert state.speedup > 0
    assert state.total_speedup > 0


def test_the_baseline_waits_while_lssgen_runs(state, events):
    state = advance(state, events[0])
    assert (state.phase, state.lssgen.status, state.baseline.status) == (RUNNING, RUNNING, WAITING)
    assert state.speedup is None


def test_previews_show_until_the_stage_is_decoded(state, events):
    for event in events:
        state = advance(state, event)
        if isinstance(event, StageFinished):
            break
    assert state.lssgen.preview is not None
    assert state.lssgen.decoded is event


def test_a_stop_keeps_what_was_made(state, events):
    for event in events:
        state = advance(state, event)
        if isinstance(event, ArmFinished):
            break
    state = finish(state)
    assert (state.phase, state.lssgen.status, state.baseline.status) == (STOPPED, DONE, STOPPED)
    assert state.lssgen.result is not None
    assert len(state.lssgen.stages) == 2


def test_a_failed_arm_keeps_its_stages_and_the_other_arm(state, events):
    for event in events:
        if event.arm == "baseline" or isinstance(event, ArmFinished):
            continue
        state = advance(state, event)
    state = advance(state, ArmFailed("lssgen", "no memory"))
    for event in events:
        if event.arm == "baseline":
            state = advance(state, event)
    state = finish(state)
    assert (state.phase, state.lssgen.status, state.baseline.status) == (DONE, FAILED, DONE)
    assert state.lssgen.message == "no memory"
    assert len(state.lssgen.stages) == 2
    assert state.speedup is None


def test_scores_add_up_and_change_nothing_else(state, events):
    for event in events:
        state = advance(state, event)
    piqe, topiq = Score(30.0, None, 0.1), Score(None, "no weights", 0.0)
    scored = advance(advance(state, Scored("lssgen", ({"piqe": piqe},))), Scored("lssgen", ({"topiq": topiq},)))
    assert scored.lssgen.scores == {"piqe": piqe, "topiq": topiq}
    assert replace(scored, lssgen=replace(scored.lssgen, scores={})) == state
