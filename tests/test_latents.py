"""Noise statistics and re-noising against known answers."""

from __future__ import annotations

import pytest
import torch

from lssgen.latents import clean_estimate, coupled_noise, renoise, resize
from lssgen.process import Process


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_by_two_mean_relation():
    full = noise(2, 16, 64, 64)
    low = coupled_noise(full, 32, 32)
    by_hand = (full[..., ::2, ::2] + full[..., 1::2, ::2] + full[..., ::2, 1::2] + full[..., 1::2, 1::2]) / 4 * 2
    torch.testing.assert_close(low, by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (48, 48), (40, 24), (64, 64)])
def test_coupled_noise_is_white_with_unit_variance(size):
    """4 sigma of the sampling error for 64 x h x w values; neighbours must not correlate."""
    low = coupled_noise(noise(4, 16, 64, 64), *size)
    count = low.numel()
    assert low.shape == (4, 16, *size)
    assert abs(low.mean()) < 4 / count**0.5
    assert abs(low.var() - 1) < 4 * (2 / count) ** 0.5
    neighbours = (low[..., 1:] * low[..., :-1]).mean()
    assert abs(neighbours) < 4 / count**0.5


def test_coupled_noise_shares_the_low_frequencies():
    """A smooth pattern in the full noise appears in the low-res one at twice the amplitude for half the size."""
    wave = torch.cos(torch.arange(64) * torch.pi / 64 + torch.pi / 128).expand(1, 1, 64, 64)
    for side in (32, 48):
        low = coupled_noise(wave, side, side)
        x = torch.cos(torch.arange(side) * torch.pi / side + torch.pi / (2 * side))
        torch.testing.assert_close(low[0, 0, 0], x * 64 / side, atol=2e-2, rtol=0)


def test_coupled_noise_of_the_same_size_is_the_noise_itself():
    full = noise(1, 4, 32, 32)
    assert coupled_noise(full, 32, 32) is full
    with pytest.raises(ValueError, match="can only shrink"):
        coupled_noise(full, 64, 32)


@pytest.mark.parametrize("sigma", [0.2, 0.75, 1.0])
def test_renoised_variance_of_a_flow_is_as_predicted(sigma):
    """Var[(1 - s) x0 + s eps] = (1 - s)^2 Var[x0] + s^2, within 4 sigma of the sampling error."""
    x0 = 0.5 * noise(4, 16, 64, 64, seed=1) + 0.3
    mixed = renoise(x0, noise(4, 16, 64, 64, seed=2), sigma, Process.FLOW)
    predicted = (1 - sigma) ** 2 * x0.var() + sigma**2
    assert mixed.var() == pytest.approx(predicted.item(), abs=4 * predicted.item() * (2 / x0.numel()) ** 0.5)


@pytest.mark.parametrize("process", list(Process))
def test_clean_estimate_lands_on_the_data_for_the_true_direction(process):
    x0, eps = noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2)
    before, after = renoise(x0, eps, 0.8, process), renoise(x0, eps, 0.6, process)
    torch.testing.assert_close(clean_estimate(before, after, 0.8, 0.6, process), x0, atol=1e-5, rtol=0)


def test_resize_modes():
    z = noise(1, 4, 8, 8)
    assert torch.equal(resize(z, 16, 16, "nearest"), z.repeat_interleave(2, -1).repeat_interleave(2, -2))
    flat = torch.full((1, 4, 8, 8), 0.7)
    torch.testing.assert_close(resize(flat, 12, 16, "bicubic"), torch.full((1, 4, 12, 16), 0.7))
    assert resize(z, 8, 8, "bicubic") is z
