"""The pictures that an upsampler learns in place of true ones."""

import math

import pytest
import torch
import torch.nn.functional as F

from lssgen.latents import resize
from lssgen.training import measures, teacher
from lssgen.training.teacher import Teacher


class Identity:
    """Pixels are latents."""

    factor = multiple = 1

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def blocks(low: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """An upsampler of no merit."""
    return F.interpolate(low, size, mode="nearest-exact")


def noise(count: int, side: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures of noise, and half as large."""
    generator = torch.Generator().manual_seed(0)
    whole = [0.3 * torch.rand(3, side, side, generator=generator) - 0.15 for _ in range(count)]
    return [(w, resize(w[None], side // 2, side // 2, "bicubic")[0]) for w in whole]


def test_it_is_the_mean_of_the_two_pictures_that_small_latents_tell():
    low = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    made = Teacher(blocks, Identity(), torch.ones(measures.RINGS)).sharpened(low, 32, 24)
    expected = (blocks(low, (32, 24)) + resize(low, 32, 24, "bicubic").clamp(-1, 1)) / 2
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_it_is_as_sharp_as_is_asked_for(share, monkeypatch):
    """What is lacking in dB, beyond a ring that its gain is not limited in, falls to 1 - share of it."""
    monkeypatch.setattr(teacher, "CROPS", 8)
    monkeypatch.setattr(teacher, "MOST", 1e3)
    pairs = noise(8)
    made, plain = (
        Teacher.of(blocks, Identity(), iter(pairs).__next__, torch.device("cpu"), asked) for asked in (share, 0.0)
    )
    assert torch.equal(plain.gains, torch.ones(measures.RINGS))
    true = torch.stack([whole for whole, _ in pairs])
    powers = (measures.ring_power(taught.sharpened(small_of(pairs), 64, 64)).mean(0) for taught in (plain, made))
    lacking = [(measures.ring_power(true).mean(0) / power).log10() * 10 for power in powers]
    upper = slice(6, 20)
    assert lacking[0][upper].min() > 1.0
    torch.testing.assert_close(lacking[1][upper], (1 - share) * lacking[0][upper], atol=0.5, rtol=0)


def small_of(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([small for _, small in pairs])


def test_no_frequency_is_made_weaker_or_too_strong(monkeypatch):
    monkeypatch.setattr(teacher, "CROPS", 8)
    flat = [(whole * 0 + 0.1, small) for whole, small in noise(8)]
    sharp = [(whole, small * 1e-4) for whole, small in noise(8)]
    for pairs, gain in ((flat, 1.0), (sharp, teacher.MOST)):
        made = Teacher.of(blocks, Identity(), iter(pairs).__next__, torch.device("cpu"), 1.0)
        torch.testing.assert_close(made.gains, torch.full((measures.RINGS,), gain))


@pytest.mark.parametrize("ratio", [2.0, 1.5])
def test_gains_go_by_what_the_small_picture_can_carry(ratio):
    """A wave at two thirds of its highest frequency is made stronger by the gain of that ring at x2."""
    gains = 1 + torch.arange(measures.RINGS) / measures.RINGS
    side, of_highest = 96, 2 / 3
    small = round(side / ratio)
    cycles = round(0.5 * of_highest * small)
    x = (torch.arange(small) + 0.5) / small
    low = 0.1 * torch.cos(2 * math.pi * cycles * x).expand(1, 3, small, small)
    plain, made = (
        Teacher(lambda z, size: resize(z, *size, "bicubic"), Identity(), g).sharpened(low, side, side)
        for g in (torch.ones(measures.RINGS), gains)
    )
    expected = 1 + (cycles / small / 2 * 2 * measures.RINGS - 0.5) / measures.RINGS
    assert made.std() / plain.std() == pytest.approx(expected, rel=0.02)


def test_its_colours_are_the_true_ones_and_its_detail_is_its_own():
    """Also where they change slowly; a fine wave of the true picture stays out."""
    side, low = 128, 0.2 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = (torch.arange(side) + 0.5) / side
    slow = 0.1 * torch.cos(math.pi * x).expand(1, 3, side, side) + torch.tensor([0.1, 0.0, -0.2]).view(3, 1, 1)
    true = slow + 0.1 * torch.cos(math.pi * side / 4 * x)
    taught = Teacher(blocks, Identity(), torch.ones(measures.RINGS))
    own, made = taught.sharpened(low, side, side), taught(low, true)
    torch.testing.assert_close(made.mean((2, 3)), true.mean((2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(made - own, slow - 0.1, atol=0.02, rtol=0)
