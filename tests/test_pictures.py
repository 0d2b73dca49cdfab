"""PNG files carry their settings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lssgen.pictures import read_settings, save_png
from lssgen.previews import LatentPreview
from lssgen.request import GenerationRequest
from tests.conftest import tiny_image


def test_settings_and_pixels_survive(tmp_path):
    image = tiny_image(32)
    request = GenerationRequest(prompt="an äpple 🍎", seeds=(5,))
    path = save_png(image, tmp_path / "deep" / "a.png", request, arm="lssgen", model="embedded")
    settings = read_settings(path)
    assert settings["request"]["prompt"] == "an äpple 🍎"
    assert settings["request"]["seeds"] == [5]
    assert settings["arm"] == "lssgen"
    with Image.open(path) as reread:
        assert np.array_equal(np.asarray(reread), np.asarray(image))


def test_a_foreign_png_says_so(tmp_path):
    tiny_image(8).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="no LSSGen settings"):
        read_settings(tmp_path / "plain.png")


def test_a_fitted_preview_recovers_a_linear_map():
    """Latents that are an affine image of RGB are inverted to within 2 grey levels."""
    import torch

    images = [tiny_image(16, seed) for seed in range(4)]
    mixing = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    latents = [((torch.from_numpy(np.asarray(i) / 255.0).float() @ mixing) - 0.2).permute(2, 0, 1) for i in images]
    preview = LatentPreview.fit(latents, images, ridge=1e-6)
    shown = np.asarray(preview.image(latents[0][None]), int)
    assert np.abs(shown - np.asarray(images[0], int)).max() <= 2
