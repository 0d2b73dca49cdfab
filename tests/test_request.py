"""GenerationRequest refuses what no model could run, naming a value that works."""

from __future__ import annotations

import math

import pytest

from lssgen.request import GenerationRequest


def test_defaults_are_valid():
    request = GenerationRequest(prompt="a cat")
    assert (request.height, request.width, request.start, request.steps, request.sigma) == (1024, 1024, 512, 20, 0.75)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("prompt", "", "say what to draw"),
        ("prompt", " \n\t ", "say what to draw"),
        ("prompt", "x" * 100_000, "at most 4,000"),
        ("prompt", None, "must be text"),
        ("height", 0, "from 1 to 4096"),
        ("height", -512, "from 1 to 4096"),
        ("width", 10**9, "from 1 to 4096"),
        ("width", 512.0, "whole number"),
        ("width", "512", "whole number"),
        ("width", True, "whole number"),
        ("start", None, "whole number"),
        ("steps", 0, "from 1 to 1000"),
        ("steps", 10_000, "from 1 to 1000"),
        ("sigma", 0.0, "such as 0.75"),
        ("sigma", -0.5, "such as 0.75"),
        ("sigma", 1.01, "such as 0.75"),
        ("sigma", math.nan, "such as 0.75"),
        ("sigma", math.inf, "such as 0.75"),
        ("sigma", "0.75", "such as 0.75"),
        ("sigma", 10**400, "such as 0.75"),
        ("guidance_scale", 10**400, "from 0 to 100"),
        pytest.param("height", 10**5000, "from 1 to 4096", id="height-too-long-to-print"),
        ("prompt", "half \ud83c", "type it anew"),
        ("schedule", "magic", "paper, split"),
        ("upsampler", "lanczos", "learned, bicubic"),
        ("noise", None, "coupled, fresh"),
        ("baseline", "other", "native, pixel"),
        ("seeds", (), "1 to 16 seeds"),
        ("seeds", [1], "1 to 16 seeds"),
        ("seeds", (-1,), "from 0 to 4294967295"),
        ("seeds", (2**32,), "from 0 to 4294967295"),
        ("guidance_scale", math.nan, "from 0 to 100"),
        ("shorten", 1, "True or False"),
    ],
)
def test_hostile_value_is_refused_with_one_that_works(field, value, hint):
    with pytest.raises(ValueError, match=field.rstrip("s")) as caught:
        GenerationRequest(**{"prompt": "a cat", field: value})
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan, "half"])
def test_split_share_is_inside_the_unit_interval(share):
    with pytest.raises(ValueError, match="split is"):
        GenerationRequest(prompt="a cat", schedule="split", split=share)


def test_split_and_schedule_must_agree():
    with pytest.raises(ValueError, match="schedule='split'"):
        GenerationRequest(prompt="a cat", split=0.5)
    with pytest.raises(ValueError, match=r"split=0\.5"):
        GenerationRequest(prompt="a cat", schedule="split")
    with pytest.raises(ValueError, match="shorten"):
        GenerationRequest(prompt="a cat", schedule="split", split=0.5, shorten=False)
