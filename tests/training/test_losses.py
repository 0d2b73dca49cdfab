"""The losses of an upsampler, against known answers."""

import math

import pytest
import torch

from lssgen.training import losses


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_latents_count_in_units_of_their_deviation():
    true = torch.zeros(2, 2, 4, 4)
    made = true + torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert losses.latents_error(made, true, torch.tensor([1.0, 6.0]).view(1, 2, 1, 1)) == 0.75


def test_ten_times_the_error_is_twenty_decibels_in_each_picture():
    true = torch.zeros(2, 3, 32, 32)
    small, large = losses.pixels_error(true + 1.0, true), losses.pixels_error(true + 10.0, true)
    assert (large - small).item() == pytest.approx(math.log(100), abs=0.01)
    assert losses.pixels_error(true, true).item() == pytest.approx(math.log(losses.FLAT_ERROR))


def test_half_the_amplitude_is_an_energy_error_of_a_half():
    true = 2 * noise(2, 3, 64, 64)
    torch.testing.assert_close(losses.energy_error(true / 2, true, 2.0), torch.tensor(0.5), atol=0.04, rtol=0)
    torch.testing.assert_close(losses.energy_error(1 - true, true, 2.0), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert losses.energy_error(true, true, 2.0) == 0
    small = true[..., :24, :24]
    torch.testing.assert_close(losses.energy_error(small / 2, small, 2.0), torch.tensor(0.5), atol=0.1, rtol=0)
    flat = torch.zeros(2, 3, 64, 64)
    assert losses.energy_error(flat + 0.01 * noise(2, 3, 64, 64), flat, 2.0) < 0.5, "no division by nothing"


def test_energy_counts_where_it_is():
    """Half of the picture is flat: the same energy on the wrong side is a whole error on both."""
    true = torch.cat([noise(2, 3, 64, 64), torch.full((2, 3, 64, 64), 0.5)], dim=-1)
    assert losses.energy_error(true, true, 2.0) == 0
    assert losses.energy_error(true.flip(-1), true, 2.0) > 0.9


def test_half_the_amplitude_is_a_fourth_of_the_power_at_each_frequency():
    true = 2 * noise(2, 3, 64, 64)
    found = losses.spectrum_error(true / 2, true, 2.0)
    torch.testing.assert_close(found, torch.tensor(math.log10(4)), atol=0.01, rtol=0)
    torch.testing.assert_close(losses.spectrum_error(true * 2, true, 2.0), found, atol=0.01, rtol=0)
    assert losses.spectrum_error(true, true, 2.0) == 0
    flat = torch.zeros(2, 3, 64, 64)
    assert losses.spectrum_error(flat + 0.001 * noise(2, 3, 64, 64), flat, 2.0) < 0.01, "no logarithm of nothing"


def test_the_spectrum_counts_from_the_small_pictures_top_octave_on():
    """A wave of 0.15 cycles a pixel is in that octave at x2, which begins at 0.125, and below it at x1.25: 0.2."""
    wave = torch.sin(2 * math.pi * 0.15 * torch.arange(128)).expand(1, 3, 128, 128)
    true = 0.5 * noise(1, 3, 128, 128)
    assert losses.spectrum_error(true + wave, true, 2.0) > 0.1
    assert losses.spectrum_error(true + wave, true, 1.25) < 0.01


def test_colours_are_the_means_of_channels():
    true = noise(2, 3, 16, 16)
    turned = true.flip(-1) + torch.tensor([0.1, 0.0, -0.2]).view(1, 3, 1, 1)
    torch.testing.assert_close(losses.colours_error(turned, true), torch.tensor(0.1), atol=1e-6, rtol=0)
