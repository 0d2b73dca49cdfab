"""Step previews: a linear map from latents to RGB, fitted by least squares, cheap enough for every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image


class Preview(Protocol):
    """What turns latents at hand into a picture of them."""

    def image(self, latents: torch.Tensor) -> Image.Image:
        """The first of (B, C, h, w) scaled latents as a picture."""


@dataclass(frozen=True)
class LatentPreview:
    """rgb = [latents, 1] @ matrix, rgb in [0, 1]; `matrix` is (C + 1) rows of 3."""

    matrix: tuple[tuple[float, float, float], ...]

    def image(self, latents: torch.Tensor) -> Image.Image:
        """The first of (B, C, h, w) scaled latents as a picture of (w, h) pixels."""
        pixels = latents[0].float().cpu().permute(1, 2, 0)
        matrix = torch.tensor(self.matrix)
        # in torch, not NumPy: the idle threads of a second BLAS library would spin into the next denoiser step
        rgb = torch.nan_to_num(pixels @ matrix[:-1] + matrix[-1]).clamp(0.0, 1.0)
        return Image.fromarray((rgb * 255.0 + 0.5).byte().numpy())

    @classmethod
    def fit(cls, latents: list[torch.Tensor], images: list[Image.Image], ridge: float = 1e-3) -> LatentPreview:
        """Least squares over pairs of scaled latents (C, h, w) and the pictures they decode to."""
        rows, targets = [], []
        for z, image in zip(latents, images, strict=True):
            channels, height, width = z.shape
            rows.append(z.float().cpu().reshape(channels, -1).T.numpy())
            small = image.convert("RGB").resize((width, height), Image.BOX)
            targets.append(np.asarray(small, dtype=np.float32).reshape(-1, 3) / 255.0)
        x = np.concatenate(rows)
        x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
        gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1], dtype=np.float32)
        return cls(tuple(map(tuple, np.linalg.solve(gram, x.T @ np.concatenate(targets)).tolist())))
