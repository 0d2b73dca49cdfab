"""Step previews of models that bring no map of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from lssgen.families import previewers
from lssgen.families.folders import settings
from lssgen.families.load import load
from lssgen.families.placement import placement
from lssgen.families.previewers import TinyPreview, colour_fields, fitted, previewer
from lssgen.families.table import ModelError
from lssgen.previews import LatentPreview


@pytest.fixture(scope="module")
def embedded():
    return load("embedded", placement("cpu"))


def test_colour_fields_are_smooth_and_always_the_same():
    first, second = colour_fields(64, 4), colour_fields(64, 4)
    assert [i.tobytes() for i in first] == [i.tobytes() for i in second]
    pixels = np.asarray(first[3], np.float32)
    assert np.abs(np.diff(pixels, axis=0)).max() < 64 < np.ptp(pixels)


def test_a_fitted_map_shows_a_real_autoencoders_colours(embedded):
    """On a picture it was not fitted to: a red square on teal, seen within 40 of 255 where it is plain."""
    picture = Image.new("RGB", (512, 512), (32, 140, 140))
    picture.paste((205, 50, 50), (128, 128, 384, 384))
    latents = embedded.adapter.encode_images([picture])
    shown = np.asarray(fitted(embedded.adapter).image(latents), np.float32)
    assert shown.shape == (32, 32, 3)
    assert np.abs(shown[4, 4] - (32, 140, 140)).max() < 40
    assert np.abs(shown[16, 16] - (205, 50, 50)).max() < 40


def test_a_model_with_a_map_keeps_it(embedded):
    assert embedded.preview == LatentPreview(settings("embedded").latent_rgb)


def test_a_tiny_decoder_shows_the_picture_at_its_size():
    torch.manual_seed(0)
    decoder = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    shown = TinyPreview(decoder).image(torch.randn(2, 4, 8, 12))
    assert shown.size == (96, 64)
    assert TinyPreview(decoder).image(torch.full((1, 4, 8, 8), torch.nan)).size == (64, 64)


def test_a_decoder_of_the_same_latents_shows_the_steps_on_a_gpu(embedded, monkeypatch, tmp_path):
    """Here on a CPU that passes for one; without a decoder, or with one of other latents, the map is fitted."""
    its = replace(settings("embedded"), latent_rgb=None, vae="flux1")
    assert isinstance(previewer(its, embedded.adapter), LatentPreview)
    monkeypatch.setattr(previewers, "_wants_decoder", lambda its, device: True)
    for channels, kind in ((16, TinyPreview), (4, LatentPreview)):
        decoder = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, latent_channels=channels
        )
        decoder.save_pretrained(tmp_path / str(channels))
        found = tmp_path / str(channels)
        monkeypatch.setattr(previewers.remote, "decoder", lambda repo, offline, found=found: found)
        assert isinstance(previewer(its, embedded.adapter), kind)

    def absent(repo, offline):
        raise ModelError(f"{repo} is not in the cache")

    monkeypatch.setattr(previewers.remote, "decoder", absent)
    assert isinstance(previewer(its, embedded.adapter), LatentPreview)
