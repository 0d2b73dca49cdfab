"""The handlers, without a server: real runs of the tiny model."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from lssgen import scoring
from lssgen.families.remote import missing
from lssgen.families.vocabulary import Vocabulary
from lssgen.hub import HubUnreachable
from lssgen.pictures import read_settings
from lssgen.scoring import Score
from lssgen.ui import models as models_module
from lssgen.ui import outputs as outputs_module
from lssgen.ui import session as session_module
from lssgen.ui import studio as studio_module
from lssgen.ui.ideas import GENERAL
from lssgen.ui.layout import build_ui
from lssgen.ui.models import Models
from lssgen.ui.studio import Studio
from lssgen.ui.view import DONE, STOPPED
from tests.hub import Served, hub_of


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
    assert (settings["arm"], settings["model"]) == ("lssgen", values["model"])
    assert settings["upsampler_from"] == f"{values['model']}/upsampler"
    assert settings["request"]["seeds"] == [values["seed"]]
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
            assert "this step to end" in studio.stop(session)["status"]
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


def test_a_late_settle_leaves_a_new_run_alone(studio, session, values):
    """A click between a run's last word and its settle was released, with "too many visitors are waiting"."""
    steps = studio.run(session, *values.values())
    next(steps)
    assert studio.settle(session) == {}
    assert session.claimed
    steps.close()


def test_a_page_whose_run_is_gone_is_freed(studio, session, values):
    """After a broken connection Stop and settle said nothing, and Run stayed disabled for good."""
    steps = studio.run(session, *values.values())
    while not session.view.lssgen.stages:
        next(steps)
    steps.close()  # as Gradio does when the connection breaks
    for freed in (studio.stop(session), studio.settle(session)):
        assert freed["run"]["interactive"]
        assert not freed["stop"]["interactive"]
        assert "Stopped" in freed["status"]
    assert run(studio, session, values)[0]["image_baseline"]["visible"]


def test_a_claim_whose_turn_never_comes_lapses(studio, session, monkeypatch):
    """A connection that broke in the queue left "a run is already going on" for good."""
    studio.claim(session)
    monkeypatch.setattr(session_module.time, "monotonic", lambda: time.perf_counter() + 1e9)
    assert studio.stop(session)["run"]["interactive"]
    studio.claim(session)


def test_a_full_disk_frees_the_page(studio, session, values, monkeypatch):
    """The message about the disk was shown by writing the pictures once more, which raised again."""

    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(outputs_module, "arm_html", lambda name, state, address: "")  # its previews are saved too
    last, _ = run(studio, session, values)
    assert "No space left" in last["status"]
    assert last["run"]["interactive"]
    assert not session.claimed
    monkeypatch.undo()
    assert run(studio, session, values)[0]["image_lssgen"]["visible"]


def test_a_broken_write_leaves_no_file(session, monkeypatch):
    def partial(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    image = Image.new("RGB", (8, 8))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", partial)
        with pytest.raises(OSError, match="No space"):
            session.shelf.show(image, "lssgen")
    assert Image.open(session.shelf.show(image, "lssgen")).size == (8, 8)


def test_what_fails_before_a_run_begins_leaves_the_former_result(studio, session, values, monkeypatch):
    """Any error but ValueError stamped the result of the run before as failed."""
    run(studio, session, values)
    view = session.view

    def broken(request, stop):
        raise RuntimeError("no device")
        yield

    monkeypatch.setattr(studio.models.get(values["model"]), "compare", broken)
    last, _ = run(studio, session, values)
    assert "no device" in last["status"]
    assert last["run"]["interactive"]
    assert session.view is view
    assert view.phase == DONE


def test_a_failing_arm_shows_its_message_and_the_other_goes_on(studio, session, values, tiny_model, monkeypatch):
    class Broken(torch.nn.Module):
        def upsample(self, latents, height, width):
            raise RuntimeError("the upsampler is broken")

    model = replace(tiny_model, upsampler=Broken())
    monkeypatch.setattr(studio.models.get(values["model"]), "_model", model)
    last, _ = run(studio, session, values)
    assert "the upsampler is broken" in last["arm_lssgen"]
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
    assert outputs["steps"] == 28  # its own, where the page began with 4
    assert "no model at" in studio.switch_model(session, *{**values, "model": "/nowhere"}.values())["plan"]


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A hub with the tiny model, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with hub_of(Served()) as served:
        served.repos["someone/tiny"] = tiny_folder
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_a_model_of_the_hub_is_fetched_when_it_runs(studio, session, values, hub):
    own, other = studio.models.get(values["model"]), {**values, "model": "someone/tiny"}
    run(studio, session, values)
    assert "ls-plan" in studio.switch_model(session, *other.values())["plan"]
    assert hub.weights_asked() == []
    last, every = run(studio, session, other)
    assert any("the model: " in o.get("status", "") and " MB" in o["status"] for o in every)
    assert last["image_lssgen"]["visible"]
    assert not own.loaded, "one model's weights in memory"
    run(studio, session, values)
    assert own.loaded


def test_stop_breaks_a_download_off(studio, session, values, hub, tmp_path):
    steps, cache = studio.run(session, *{**values, "model": "someone/tiny"}.values()), tmp_path / "hub"
    hub.gate.clear()
    while " MB" not in next(steps).get("status", ""):
        pass
    session.stop.set()
    assert "before the run began" in list(steps)[-1]["status"], "the page is free, though nothing flows"
    hub.gate.set()
    for thread in threading.enumerate():
        if thread.name == "lssgen-fetch":
            thread.join(30)
    assert not studio.models.get("someone/tiny").loaded
    (snapshot,) = cache.glob("models--someone--tiny/snapshots/*")
    assert missing(snapshot), "what came later was not taken"


def test_a_hub_that_is_not_there_is_asked_once(studio, session, values, hub, monkeypatch):
    """Every move of a slider waited for it anew."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    absent = {**values, "model": "someone/absent"}
    assert "could not be fetched" in studio.replan(session, *absent.values())["plan"]
    monkeypatch.setattr(models_module, "Engine", None)
    assert "could not be fetched" in studio.replan(session, *absent.values())["plan"]


def test_a_model_without_a_learned_upsampler_offers_the_others(studio, session, values, tiny_folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    shutil.rmtree(bare / "upsampler")
    outputs = studio.switch_model(session, *{**values, "model": str(bare)}.values())
    assert outputs["upsampler"]["value"] == "pixel"
    assert [value for _, value in outputs["upsampler"]["choices"]] == ["bicubic", "nearest", "pixel"]
    assert "ls-plan" in outputs["plan"]
    back = studio.switch_model(session, *{**values, "upsampler": "pixel"}.values())
    assert "learned" in [value for _, value in back["upsampler"]["choices"]]


def test_leaving_the_model_box_keeps_the_guidance(studio, session, values, tiny_folder, tmp_path):
    """Every blur of the box put the model's default guidance back, whether or not another model was named."""
    leave = lambda model: studio.switch_model(session, *{**values, "model": model}.values())  # noqa: E731
    assert leave(values["model"]).keys().isdisjoint({"guidance_scale", "steps"})
    other = tmp_path / "other"
    other.symlink_to(tiny_folder)
    assert "guidance_scale" in leave(str(other))
    assert "guidance_scale" not in leave(f" {other} ")
    assert "guidance_scale" not in leave("/nowhere")
    assert "guidance_scale" not in leave(str(other))
    assert "guidance_scale" in leave(values["model"])


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


def test_scores_begun_before_a_run_are_made_after_it(studio, session, values, monkeypatch):
    """Scoring went on beside the next run's timed denoising, on the same cores."""
    run(studio, session, values)
    answers = iter([None, None])
    asked = []
    score = lambda image, metric: asked.append(metric) or next(answers, Score(1.0, None, 0.1))  # noqa: E731
    monkeypatch.setattr(studio.scorer, "score", score)
    list(studio.score(session))
    assert asked == ["piqe", "piqe", "piqe", "piqe", "topiq", "topiq"]
    assert all(s.value == 1.0 for arm in session.view.arms.values() for s in arm.scores.values())


def test_a_run_holds_the_scorer(studio, session, values):
    for _ in studio.run(session, *values.values()):
        assert studio.scorer.held
    assert not studio.scorer.held


def test_scores_of_an_old_run_are_dropped(studio, session, values, monkeypatch):
    run(studio, session, values)
    monkeypatch.setattr(studio.scorer, "score", lambda image, metric: session.new_shelf() and Score(1.0, None, 0.1))
    assert len(list(studio.score(session))) == 1
    assert session.view.lssgen.scores == {}


def test_a_surprise_is_a_prompt_the_model_can_draw(studio, session, values, monkeypatch):
    engine = studio.models.get(values["model"])
    assert studio.surprise(session, *values.values())["prompt"] in GENERAL
    own = Vocabulary(("3d",), (), ("apple", "<b>"), *[frozenset()] * 4, {})
    monkeypatch.setattr(engine, "vocabulary", own)
    for prompt, other in (("3d apple", "3d <b>"), ("3d <b>", "3d apple")):
        outputs = studio.surprise(session, *{**values, "prompt": prompt}.values())
        assert outputs["prompt"] == other, "never the one that is there"
        assert "<b>" not in outputs["idea"]
    assert studio.surprise(session, *{**values, "model": "/nowhere"}.values())["prompt"] in GENERAL


def test_a_failed_download_is_one_message(studio, monkeypatch):
    def unreachable(progress):
        raise HubUnreachable("hub did not answer. <b>")

    monkeypatch.setattr(studio_module, "fetch_topiq", unreachable)
    outputs = list(studio.fetch())
    assert "did not answer. &lt;b&gt;" in outputs[-1]["fetch_note"]
    assert outputs[-1]["fetch"]["interactive"]
