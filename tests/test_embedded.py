"""The embedded model as it lies in assets: complete, loadable offline, exact, and drawing what it is told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lssgen.engine import Engine
from lssgen.events import ArmFinished
from lssgen.families.folders import ASSETS
from lssgen.latents import resize
from lssgen.request import GenerationRequest
from lssgen.sheet import read_prompts
from lssgen.spacefile import read

FOLDER = ASSETS / "embedded"
REQUEST = GenerationRequest(prompt="glossy red apple", height=1024, width=1024, start=512, steps=12)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("embedded", "cpu")


def pictures(engine: Engine, request: GenerationRequest) -> list[np.ndarray]:
    """(H, W, 3) float in [0, 1] of each arm."""
    finished = [event for event in engine.compare(request) if isinstance(event, ArmFinished)]
    return [np.asarray(event.images[0], np.float32) / 255.0 for event in finished]


def border(pixels: np.ndarray) -> np.ndarray:
    """Mean colour of the outermost 5 %."""
    edge = len(pixels) // 20
    return np.median(np.concatenate([pixels[:edge].reshape(-1, 3), pixels[-edge:].reshape(-1, 3)]), axis=0)


def test_files_are_small_and_settings_complete():
    sizes = {path.name: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 10_000_000
    assert sum(sizes.values()) < 100_000_000
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    settings = json.loads((FOLDER / "lssgen.json").read_text())
    assert len(settings["latent_rgb"]) == 17


def test_one_stage_equals_the_stock_call_bit_for_bit(engine):
    one_stage = replace(REQUEST, height=256, width=256, start=256, steps=4, seeds=(11,))
    ours, baseline = pictures(engine, one_stage)
    pipe = engine.load().adapter.pipe
    theirs = pipe(
        REQUEST.prompt,
        height=256,
        width=256,
        num_inference_steps=4,
        max_sequence_length=engine.settings.max_sequence_length,
        generator=torch.Generator().manual_seed(11),
    ).images[0]
    for arm in (ours, baseline):
        assert np.abs(arm - np.asarray(theirs, np.float32) / 255.0).max() == 0.0


def test_a_plural_draws_what_the_stock_call_draws_of_the_words_it_is_read_as(engine):
    asked = replace(REQUEST, prompt="CATS, in 3D", height=256, width=256, start=256, steps=2, seeds=(5,))
    ours, baseline = pictures(engine, asked)
    read = engine.filled(asked).prompt
    theirs = engine.load().adapter.pipe(
        read, height=256, width=256, num_inference_steps=2, max_sequence_length=engine.settings.max_sequence_length,
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    assert read == "3d cat"
    for arm in (ours, baseline):
        assert np.abs(arm - np.asarray(theirs, np.float32) / 255.0).max() == 0.0


def test_the_listed_prompts_are_captions_of_known_words(engine):
    prompts, vocabulary = read_prompts(FOLDER / "prompts.txt"), engine.vocabulary
    assert len(set(prompts)) == 60
    for prompt in (*prompts, *read().app.examples, read().app.prompt):
        assert vocabulary.normalise(prompt) == prompt
        assert vocabulary.unknown(prompt) == []
    for idea in vocabulary.ideas:
        assert vocabulary.normalise(f"3d {idea}") == f"3d {idea}"
        assert vocabulary.unknown(idea) == []
    assert set(read().app.examples) <= set(prompts)


def test_the_prompt_decides_the_picture(engine):
    """In both arms a red apple is red on white, and the background is the one that is named."""
    for apple in pictures(engine, REQUEST):
        assert border(apple).min() > 0.85
        red, green, blue = apple[384:640, 384:640].mean((0, 1))
        assert red > 1.4 * max(green, blue)
    for sun in pictures(engine, replace(REQUEST, prompt="glossy sun on a teal background")):
        red, green, blue = border(sun)
        assert red + 0.15 < min(green, blue)


def test_scaled_latents_have_about_unit_variance(engine):
    """The noise the sampler mixes in assumes it; of a picture drawn here, mostly white, so within a factor of three."""
    latents = engine.load().adapter.encode_images([drawn()])
    assert 0.3 < latents.var() < 3.0


def drawn() -> Image.Image:
    image = Image.new("RGB", (512, 512), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((96, 96, 416, 416), fill=(200, 40, 50))
    draw.rectangle((240, 40, 272, 130), fill=(110, 70, 40))
    return image


def test_the_upsampler_beats_bicubic_latents(engine):
    """Decoded against the decode of the true latents, by at least 3 dB in mean squared error."""
    model = engine.load()
    large = drawn()
    low = model.adapter.encode_images([large.resize((256, 256), Image.BOX)])
    true = np.asarray(model.adapter.decode(model.adapter.encode_images([large]))[0], np.float32)

    def error(latents: torch.Tensor) -> float:
        return float(((np.asarray(model.adapter.decode(latents)[0], np.float32) - true) ** 2).mean())

    assert error(model.upsampler.upsample(low, 32, 32)) < 0.5 * error(resize(low, 32, 32, "bicubic"))
