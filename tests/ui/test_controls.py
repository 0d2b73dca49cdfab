"""From raw control values to a request: nothing that arrives is trusted."""

import math
import re
from dataclasses import replace

import pytest

from lssgen.engine import Engine
from lssgen.families.table import Settings
from lssgen.request import MAX_PROMPT
from lssgen.ui.controls import NAMES, default_request, fitting, model_choices, model_from, request_from

PLAIN, GUIDED = Settings("plain", guidance_scale=None, takes_negative=False), Settings("guided")


def test_untouched_controls_give_the_default_request(config, values):
    request = request_from({**values, "prompt": config.prompt}, config, PLAIN)
    assert request == default_request(config)


def test_a_model_named_in_place_of_the_spacefiles_gets_prompts_and_steps_of_its_own(config, tiny_engine):
    """Emoji captions suit the embedded model alone."""
    hosted, named = (fitting(config, tiny_engine, named=which) for which in (False, True))
    assert (hosted.prompt, hosted.examples, hosted.steps) == (config.prompt, config.examples, config.steps)
    assert not {config.prompt, *config.examples} & {named.prompt, *named.examples}
    assert len(named.examples) == len(config.examples)
    assert named.steps.default == tiny_engine.settings.steps
    own_words = fitting(config, Engine("embedded", "cpu"), named=True)
    assert (own_words.prompt, own_words.examples) == (config.prompt, config.examples)
    assert fitting(config, None, named=True) == config, "a model that cannot be read"


def test_the_values_fixture_names_every_control(values):
    assert tuple(values) == NAMES


def test_auto_off_asks_for_the_share(config, values):
    request = request_from({**values, "auto": False, "split": 0.3}, config, PLAIN)
    assert (request.schedule, request.split) == ("split", 0.3)
    assert request_from(values, config, PLAIN).split is None


def test_guidance_is_read_only_where_the_model_takes_it(config, values):
    assert request_from({**values, "guidance_scale": "x"}, config, PLAIN).guidance_scale is None
    assert request_from({**values, "guidance_scale": 5}, config, GUIDED).guidance_scale == 5.0


def test_a_guidance_of_zero_is_a_models_own(config, values):
    assert request_from({**values, "guidance_scale": 0.0}, config, GUIDED).guidance_scale == 0.0


def test_the_negative_prompt_is_read_only_where_the_model_takes_it(config, values):
    assert request_from({**values, "negative_prompt": "blur"}, config, PLAIN).negative_prompt == ""
    assert request_from({**values, "negative_prompt": "blur"}, config, GUIDED).negative_prompt == "blur"
    with pytest.raises(ValueError, match="negative_prompt is 7"):
        request_from({**values, "negative_prompt": 7}, config, GUIDED)


def test_fresh_noise_and_a_whole_float(config, values):
    request = request_from({**values, "coupled": False, "width": 128.0}, config, PLAIN)
    assert (request.noise, request.width) == ("fresh", 128)
    assert type(request.width) is int


HOSTILE = [
    ("prompt", "", "prompt is empty"),
    ("prompt", "  \n", "prompt is empty"),
    ("prompt", None, "prompt is None"),
    ("prompt", ["a"], "must be text"),
    ("prompt", "x" * 100_000, f"at most {MAX_PROMPT:,}"),
    ("width", None, "width is empty; enter a whole number from 64 to 256"),
    ("width", -128, "width is -128; it must be a whole number from 64 to 256"),
    ("width", 100_000, "width is 100000"),
    ("height", 128.5, "height is 128.5"),
    ("height", math.nan, "height is nan"),
    ("height", math.inf, "height is inf"),
    ("height", "128", "height is '128'"),
    ("start", {"a": 1}, "start is"),
    ("steps", 0, "steps is 0; it must be a whole number from 2 to 50"),
    ("steps", 10_000, "steps is 10000"),
    ("steps", True, "steps is True"),
    ("seed", -1, "seed is -1"),
    ("seed", 2**40, "seed is"),
    ("seed", "", "seed is empty"),
    ("sigma", 0.1, "sigma is 0.1; it must be a number from 0.2 to 1"),
    ("sigma", math.nan, "sigma is empty"),
    ("sigma", math.inf, "sigma is inf"),
    ("split", 1.0, "split is 1.0"),
    ("auto", "yes", "auto is 'yes'; it must be true or false"),
    ("coupled", None, "coupled is 'None'"),
    ("baseline", "best", "baseline is 'best'; it must be one of native, pixel"),
    ("upsampler", None, "upsampler is None"),
    ("upsampler", ["learned"], "upsampler is"),
]


@pytest.mark.parametrize(("name", "value", "message"), HOSTILE)
def test_a_bad_value_is_refused_by_name(config, values, name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        request_from({**values, name: value}, config, PLAIN)
    assert len(str(caught.value)) < 300


def test_guidance_out_of_bounds_is_refused(config, values):
    with pytest.raises(ValueError, match="guidance_scale is 1000"):
        request_from({**values, "guidance_scale": 1000}, config, GUIDED)


def test_a_public_page_takes_no_path(config, values):
    public = replace(config, allow_paths=False)
    with pytest.raises(ValueError, match="its own model only"):
        model_from({**values, "model": "/etc"}, public, config.model)
    assert model_from(values, public, config.model) == config.model
    assert model_from({**values, "model": " /some/folder "}, config, config.model) == "/some/folder"


@pytest.mark.parametrize("value", [None, "", 7, "x" * 2000])
def test_a_model_that_is_no_text_is_refused(config, values, value):
    with pytest.raises(ValueError, match="model is empty or no text"):
        model_from({**values, "model": value}, config, config.model)


def test_models_of_the_hub_are_offered_with_what_they_need():
    choices = dict(model_choices("embedded", "bfloat16"))
    assert next(iter(choices.items())) == ("embedded", "embedded")
    assert choices["black-forest-labs/FLUX.1-dev · 34 GB · gated"] == "black-forest-labs/FLUX.1-dev"
    assert list(dict(model_choices("/models/mine", "float32")).values())[:2] == ["/models/mine", "embedded"]
    own = "stabilityai/sdxl-turbo"
    assert [v for _, v in model_choices(own, "float32")].count(own) == 1
