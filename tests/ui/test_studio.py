"""The handlers, without a server: real runs of the tiny model."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from lssgen import scoring
from lssgen.pictures import read_settings
from lssgen.scoring import HubUnreachable
from lssgen.ui import studio as studio_module
from lssgen.ui.layout import build_ui
from lssgen.ui.models import Models
from lssgen.ui.session import Session
from lssgen.ui.studio import Studio
from lssgen.ui.view import DONE, STOPPED


def run(studio, session, values):
    """A whole run as the page sees it: the last value of each output, and all of them in order."""
    last, every = {}, []
    for outputs in studio.run(session, *values.values()):
        last |= outputs
        every.append(outputs)
    return last, every


def test_a_run_shows_both_pictures_losslessly(studio, session, values):
    last, every = run(studio, session, values)
    assert session.view.phase == DONE
    for name, arm in session.view.arms.items():
        shown = last[f"image_{name}"]
        assert shown["visible"]
        assert np.array_equal(np.asarray(Image.open(shown["value"])), np.asarray(arm.result.images[0]))
    assert last["slider"]["value"] == (last["image_lssgen"]["value"], last["image_baseline"]["value"])
    assert last["run"]["interactive"]
    assert not last["stop"]["interactive"]
    assert "Where the time went" in last["timings"]["value"]
    assert sum(len(json.dumps(o, default=str)) for o in every) / len(every) < 40_000


def test_downloads_carry_their_settings(studio, session, values):
    last, _ = run(studio, session, values)
    path = Path(last["save_lssgen"]["value"])
    settings = read_settings(path)
    assert (settings["arm"], settings["model"], settings["request"]["seeds"]) == ("lssgen", values["model"], [7])
    stage = next(path.parent.glob("*lssgen-stage1.png"))
    assert read_settings(stage)["stage"] == 1
    assert stage.name in last["stages"]["value"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("width", 100, "multiple of"), ("prompt", "", "prompt is empty"), ("steps", 10_000, "steps is 10000")],
)
def test_a_refused_run_says_why_and_keeps_the_former_result(studio, session, values, name, value, message):
    run(studio, session, values)
    view, bad = session.view, {**values, name: value}
    last, _ = run(studio, session, bad)
    assert message in last["status"]
    assert last["run"]["interactive"]
    assert session.view is view
    assert not any(part.startswith(("image", "stages", "timings")) for part in last)
    plan = studio.replan(session, *bad.values())["plan"]
    assert message in plan
    assert "Traceback" not in plan
    assert run(studio, session, values)[0]["image_lssgen"]["visible"]


def test_the_changed_mark_follows_the_controls(studio, session, values):
    mark = lambda v: studio.replan(session, *v.values())["changed"]["visible"]  # noqa: E731
    assert not mark({**values, "sigma": 0.5})
    run(studio, session, values)
    assert not mark(values)
    assert mark({**values, "sigma": 0.5})
    assert mark({**values, "width": "x"})
    assert not mark(values)


def test_a_change_while_waiting_marks_the_run_from_its_start(studio, session, values):
    """A control moved between the click and the run's turn was unmarked: the run's start cleared the mark."""
    studio.claim(session)
    studio.replan(session, *{**values, "sigma": 0.5}.values())
    last, _ = run(studio, session, values)
    assert last["changed"]["visible"]
    assert not studio.replan(session, *values.values())["changed"]["visible"]


def test_a_new_seed_is_shown_and_used(studio, session, values):
    last, _ = run(studio, session, {**values, "random": True})
    assert session.view.request.seeds == (last["seed"],)
    used = {**values, "seed": last["seed"], "random": True}
    assert not studio.replan(session, *used.values())["changed"]["visible"]


def test_stop_keeps_what_was_made_and_frees_the_page(studio, session, values):
    last = {}
    for outputs in studio.run(session, *{**values, "steps": 50}.values()):
        last |= outputs
        if session.view.lssgen.stages:
            assert not studio.stop(session)["stop"]["interactive"]
    assert session.view.phase == STOPPED
    assert len(session.view.lssgen.stages) >= 1
    assert "Stopped" in last["status"]
    assert last["stages"]["visible"]
    assert last["run"]["interactive"]
    run(studio, session, values)
    assert session.view.phase == DONE


def test_stop_in_the_queue_means_that_nothing_runs(studio, session, values):
    studio.claim(session)
    studio.stop(session)
    last, _ = run(studio, session, values)
    assert "before the run began" in last["status"]
    assert session.view.request is None
    assert not session.claimed


def test_a_second_click_is_refused_while_one_is_pending(studio, session):
    studio.claim(session)
    with pytest.raises(gr.Error, match="already going on"):
        studio.claim(session)
    assert studio.settle(session)["run"]["interactive"]
    studio.claim(session)


def test_a_failing_arm_shows_its_message_and_the_other_goes_on(studio, session, values, tiny_model, monkeypatch):
    model = replace(tiny_model, upsampler=None)
    monkeypatch.setattr(studio.models.get(values["model"]), "_model", model)
    last, _ = run(studio, session, values)
    assert "no learned upsampler" in last["arm_lssgen"]
    assert last["image_baseline"]["visible"]
    assert not last["image_lssgen"]["visible"]
    assert last["stages"]["visible"]  # the first stage was made


def test_a_missing_model_is_told_everywhere_and_the_page_builds(config, session, values, tmp_path):
    absent = str(tmp_path / "absent")
    config, values = replace(config, model=absent), {**values, "model": absent}
    studio = Studio(Models(absent), config)
    assert isinstance(build_ui(studio.models, config), gr.Blocks)
    assert "no model at" in studio.replan(session, *values.values())["plan"]
    assert "no model at" in run(studio, session, values)[0]["status"]


def test_another_model_can_be_named_by_path(studio, session, values, tiny_folder, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(tiny_folder)
    outputs = studio.switch_model(session, *{**values, "model": str(other)}.values())
    assert "ls-plan" in outputs["plan"]
    assert not outputs["guidance_scale"]["visible"]
    assert "no model at" in studio.switch_model(session, *{**values, "model": "/nowhere"}.values())["plan"]


def test_a_run_waits_for_the_warm_up_and_can_be_stopped_there(studio, session, values):
    studio.models.warm.clear()
    steps = studio.run(session, *values.values())
    assert "Loading" in next(steps)["status"]
    threading.Timer(0.05, session.stop.set).start()
    assert "before the run began" in next(steps)["status"]
    studio.models.warm.set()


@pytest.mark.skipif(not scoring.pyiqa_available(), reason="pyiqa is not installed")
def test_scores_come_after_the_run(studio, session, values):
    run(studio, session, values)
    assert session.view.lssgen.scores == {}
    outputs = list(studio.score(session))
    assert set(session.view.lssgen.scores) == {"piqe", "topiq"}
    assert session.view.lssgen.scores["topiq"].value is None
    assert "PIQE" in outputs[-1]["scores"]["value"]
    assert "unavailable" in outputs[-1]["scores"]["value"]
    assert outputs[-1]["offer"]["visible"]


def test_scores_of_an_old_run_are_dropped(studio, session, values, monkeypatch):
    run(studio, session, values)
    monkeypatch.setattr(studio_module, "score", lambda image, names: session.new_shelf() and {})
    assert len(list(studio.score(session))) == 1
    assert session.view.lssgen.scores == {}


def test_a_failed_download_is_one_message(studio, monkeypatch):
    def unreachable(progress):
        raise HubUnreachable("hub did not answer. <b>")

    monkeypatch.setattr(studio_module, "fetch_topiq", unreachable)
    outputs = list(studio.fetch())
    assert "did not answer. &lt;b&gt;" in outputs[-1]["fetch_note"]
    assert outputs[-1]["fetch"]["interactive"]


def test_a_visitor_who_leaves_takes_his_pictures_along(studio, values):
    session = Session()
    run(studio, session, values)
    folder = session.shelf.folder
    assert folder.is_dir()
    session.close()
    assert not folder.exists()
