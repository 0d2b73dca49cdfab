"""The scoring process: ended by a run, replaced when it dies, gone with the page."""

import os
import threading
import time

import pytest
from PIL import Image

from lssgen.scoring import Score
from lssgen.ui import scorer as scorer_module
from lssgen.ui.scorer import Scorer

PICTURE = Image.new("RGB", (64, 64))


def brightness(image, names):
    return {name: Score(float(image.getpixel((0, 0))[0]), None, 0.0) for name in names}


def endless(image, names):
    time.sleep(600)


def deadly(image, names):
    os._exit(3)


@pytest.fixture
def scorer(request):
    made = Scorer(request.param)
    yield made
    made.close()


def in_thread(scorer):
    """A score asked for in a thread that is at work now, and the list its answer will be in."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(scorer.score(PICTURE, "piqe")), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not scorer._working:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return thread, answers


@pytest.mark.parametrize("scorer", [brightness], indirect=True)
def test_the_process_stays_for_the_next_picture(scorer):
    assert scorer.score(Image.new("RGB", (64, 64), (9, 0, 0)), "piqe").value == 9.0
    process = scorer._process
    assert process.pid != os.getpid()
    assert scorer.score(PICTURE, "topiq").value == 0.0
    with scorer.hold():  # nothing to end: an idle process costs nothing
        assert scorer.score(PICTURE, "piqe") is None
    assert scorer.score(PICTURE, "piqe").value == 0.0
    assert scorer._process is process
    scorer.close()
    assert scorer._process is None


@pytest.mark.parametrize("scorer", [endless], indirect=True)
def test_a_run_ends_a_scoring_at_once(scorer):
    """TOPIQ took both cores for 13 s of the next run's timed denoising."""
    thread, answers = in_thread(scorer)
    process = scorer._process
    start = time.monotonic()
    with scorer.hold():
        assert time.monotonic() - start < 1
        thread.join(10)
        assert answers == [None]
        assert not process.is_alive()
    assert scorer._process is None


@pytest.mark.parametrize("scorer", [deadly], indirect=True)
def test_a_process_that_dies_is_told_and_replaced(scorer):
    for _ in range(2):
        score = scorer.score(PICTURE, "piqe")
        assert score.value is None
        assert "ended unexpectedly" in score.reason


@pytest.mark.parametrize("scorer", [endless], indirect=True)
def test_a_score_that_takes_too_long_is_given_up(scorer, monkeypatch):
    monkeypatch.setattr(scorer_module, "LONGEST", 0.1)
    assert "more than 0.1 s" in scorer.score(PICTURE, "piqe").reason
    assert scorer._process is None
