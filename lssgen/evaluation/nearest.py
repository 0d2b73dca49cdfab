"""Which training picture a generated one is nearest to, in plain pixel distance at 64 px."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from lssgen.training import data as D
from lssgen.training import scenes as S

SIDE = S.THUMB
TOP = 5
BACKGROUND_DISTANCE = 40.0  # of 255, Euclidean over red, green and blue
BORDER = 0.03  # share of the side whose mean is the background


def small(picture: torch.Tensor) -> torch.Tensor:
    """(3, h, w) -> (3, SIDE, SIDE), by area."""
    return F.interpolate(picture[None], size=(SIDE, SIDE), mode="area")[0]


class Gallery:
    """All training pictures. `stack` is uint8 RGBA (N, SIDE, SIDE, 4)."""

    def __init__(self, pictures: list[D.Picture], stack: np.ndarray) -> None:
        self.pictures, self._stack = pictures, stack
        self._shown: tuple[str | None, torch.Tensor] | None = None

    def on(self, background: str | None) -> torch.Tensor:
        """(N, 3 SIDE^2), 0 to 255: every picture on a plain background; the last one asked for is kept."""
        if self._shown is None or self._shown[0] != background:
            self._shown = None  # the old one makes room first
            colour = D.COLOURS[background] if background else D.WHITE
            shown = torch.empty(len(self._stack), 3 * SIDE * SIDE)
            for k, rgba in enumerate(self._stack):
                shown[k] = ((D.composite(rgba, colour) + 1) * 127.5).flatten()
            self._shown = background, shown
        return self._shown[1]

    def ranked(self, picture: torch.Tensor, background: str | None = None) -> tuple[list[int], float]:
        """(indices from near to far, root mean square distance to the nearest) of a picture (3, h, w), 0 to 255."""
        distance = (self.on(background) - small(picture).flatten()).square().mean(1)
        return distance.argsort().tolist(), float(distance.min().sqrt())

    def top_labels(self, ranked: list[int], count: int = TOP) -> list[str]:
        """The labels of the nearest pictures, without repetition."""
        found: list[str] = []
        for i in ranked:
            if self.pictures[i].label not in found:
                found.append(self.pictures[i].label)
                if len(found) == count:
                    break
        return found


def border_distance(picture: torch.Tensor, colour: tuple[int, int, int]) -> float:
    """Euclidean distance of the mean of the border of (3, h, w), 0 to 255, to a colour."""
    height, width = picture.shape[1:]
    edge = max(1, round(min(height, width) * BORDER))
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[edge : height - edge, edge : width - edge] = True
    mean = picture[:, ~inside].mean(1)
    return float((mean - torch.tensor(colour, dtype=mean.dtype)).norm())
