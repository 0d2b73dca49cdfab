"""Distances of spectra: none from itself, negative where blurred."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lssgen.evaluation import spectrum


def test_a_set_is_no_distance_from_itself_and_blur_lowers_the_top():
    torch.manual_seed(0)
    pictures = [torch.rand(3, 96, 96) * 255 for _ in range(4)]
    true = spectrum.mean_of(pictures)
    assert spectrum.distance(true, true) == {"rms": 0.0, "upper_half": 0.0}
    blurred = spectrum.mean_of(F.avg_pool2d(p[None], 3, 1, 1)[0] for p in pictures)
    found = spectrum.distance(blurred, true)
    assert found["upper_half"] < -3
    assert found["rms"] > 3
    assert spectrum.distance(spectrum.mean_of(p + 20 * torch.randn_like(p) for p in pictures), true)["upper_half"] > 0
