"""Measures of pictures against known answers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lssgen.training import measures


@pytest.fixture
def picture() -> torch.Tensor:
    noise = torch.rand(2, 3, 72, 64, generator=torch.Generator().manual_seed(0))
    return F.interpolate(F.avg_pool2d(noise, 2), scale_factor=2, mode="bilinear") * 0.5 + 0.25


def test_equal_pictures_have_no_error(picture):
    assert (measures.psnr(picture, picture) >= 99).all()
    torch.testing.assert_close(measures.ssim(picture, picture), torch.ones(2))
    torch.testing.assert_close(measures.spectrum_error(picture, picture), torch.zeros(2))
    torch.testing.assert_close(measures.energy_ratio(picture, picture, 2.0), torch.ones(2))


def test_a_constant_added_shifts_colours_only(picture):
    made = picture + torch.tensor([0.1, 0.0, -0.05]).view(1, 3, 1, 1)
    expected = -10 * math.log10((0.01 + 0.0025) / 3)
    torch.testing.assert_close(measures.psnr(made, picture), torch.full((2,), expected), atol=1e-3, rtol=0)
    expected = torch.tensor([[25.5, 0.0, -12.75]]).repeat(2, 1)
    torch.testing.assert_close(measures.colour_shift(made, picture), expected, atol=1e-3, rtol=0)
    assert (measures.spectrum_error(made, picture) < 1e-3).all()


def test_half_the_contrast_is_a_quarter_of_the_energy(picture):
    made = (picture - 0.5) * 0.5 + 0.5
    torch.testing.assert_close(measures.energy_ratio(made, picture, 2.0), torch.full((2,), 0.25), atol=1e-4, rtol=0)
    expected = torch.full((2,), 20 * math.log10(2))
    torch.testing.assert_close(measures.spectrum_error(made, picture), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("ratio", [2.0, 1.5])
def test_detail_of_any_strength_is_true_and_foreign_detail_is_not(picture, ratio):
    """Of true detail and as much that has nothing to do with it the correlation is the root of a half."""
    flat = torch.full_like(picture, 0.5)
    torch.testing.assert_close(measures.correlation(picture, picture, ratio), torch.ones(2))
    torch.testing.assert_close(measures.correlation(flat + 0.1 * picture, picture, ratio), torch.ones(2))
    torch.testing.assert_close(measures.correlation(1 - picture, picture, ratio), -torch.ones(2))
    assert (measures.correlation(flat, picture, ratio) == 0).all()
    noise = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1) - 0.5
    true, foreign = noise[:1], noise[1:]
    assert measures.correlation(foreign, true, ratio).abs().item() < 0.03
    assert measures.correlation(true + foreign, true, ratio).item() == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_latents_differ_in_units_of_each_channels_deviation():
    true = torch.tensor([[[[1.0, -1.0]], [[10.0, -10.0]]]]) / math.sqrt(2)  # deviations of 1 and 10
    assert measures.latents_error(true, true) == 0
    assert measures.latents_error(true + torch.tensor([1.0, 10.0]).view(1, 2, 1, 1), true) == pytest.approx(1.0)
    assert measures.latents_error(true + torch.tensor([0.0, -5.0]).view(1, 2, 1, 1), true) == pytest.approx(0.25)


def test_what_the_small_picture_does_not_carry_is_left_out(picture):
    """At a ratio of 2 all beyond a quarter of a cycle for each pixel."""
    made = picture + 0.1 * torch.cos(2 * math.pi * 0.375 * torch.arange(64))
    assert (measures.spectrum_error(made, picture) > 2).all()
    assert (measures.spectrum_error(made, picture, 2.0) < 0.2).all()
    torch.testing.assert_close(measures.spectrum_error(made, picture, 1.0), measures.spectrum_error(made, picture))


@pytest.mark.parametrize(("cycles", "inside"), [(0.1, False), (0.18, True), (0.3, False)])
def test_the_top_octave_is_that_of_the_small_picture(cycles, inside):
    """At a ratio of 2 it goes from 1/8 to 1/4 of a cycle for each pixel."""
    x = torch.arange(128) * 2 * math.pi
    true = 0.5 + 0.1 * torch.sin(x * 0.18).expand(1, 3, 128, 128)
    made = true + 0.1 * torch.sin(x * cycles + 1)
    ratio = measures.energy_ratio(made, true, 2.0).item()
    assert (abs(ratio - 1) > 0.5) is inside


def test_ssim_is_the_published_one(picture):
    """One window of the definition by hand: the 11 x 11 Gaussian, sigma 1.5, K = (0.01, 0.03)."""
    a, b = picture[:1, :, :11, :11], picture[1:, :, :11, :11]
    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    w = torch.outer(g, g) / g.sum() ** 2
    mean = [(w * x).sum((2, 3)) for x in (a, b)]
    var = [(w * (x - m[..., None, None]) ** 2).sum((2, 3)) for x, m in zip((a, b), mean, strict=True)]
    cov = (w * (a - mean[0][..., None, None]) * (b - mean[1][..., None, None])).sum((2, 3))
    expected = (2 * mean[0] * mean[1] + 1e-4) * (2 * cov + 9e-4)
    expected = expected / ((mean[0] ** 2 + mean[1] ** 2 + 1e-4) * (var[0] + var[1] + 9e-4))
    torch.testing.assert_close(measures.ssim(a, b), expected.mean(1), atol=1e-4, rtol=1e-4)


def test_the_octave_holds_its_own_frequencies_alone():
    """Of ratio 2: from an eighth to a quarter of a cycle for each pixel."""
    x = torch.arange(64.0)
    for frequency, kept in ((1 / 16, 0.0), (3 / 16, 1.0), (5 / 16, 0.0)):
        wave = torch.cos(2 * torch.pi * frequency * (x + 0.5)).expand(1, 3, 64, 64)
        torch.testing.assert_close(measures.octave(wave, 2.0), kept * wave[:, 0], atol=1e-5, rtol=0)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert measures.octave(ramp, 2.0).abs().max() < 0.01, "its ends are not one step"


def test_convolutions_are_exact_where_they_are_measured():
    """A GPU's default is TF32, of 10 bits."""
    torch.backends.cudnn.allow_tf32 = True
    with measures.exact():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
