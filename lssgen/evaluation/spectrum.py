"""The radial power spectrum of a set of pictures, and how far two sets are apart in it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lssgen.training import measures


def mean_of(pictures: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean power in dB in rings from low to high frequencies, of pictures (3, h, w), 0 to 255."""
    rows = [measures.ring_decibels(picture[None].float() / 255.0)[0] for picture in pictures]
    return torch.stack(rows).mean(0)


def distance(made: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """{rms, signed}: root mean square over rings in dB, and the mean difference in the upper half of the rings.

    A negative one is blurred, a positive one too sharp or grained.
    """
    difference = made - true
    upper = difference[len(difference) // 2 :]
    return {"rms": float(difference.square().mean().sqrt()), "upper_half": float(upper.mean())}
