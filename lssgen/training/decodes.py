"""The decoded pictures that were measured, side by side: a row for each picture, a column for each method."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from lssgen.training.photos import image_of

TILE, GAP, LABEL = 256, 8, 20  # pixels of a cut's side, between cuts, and of a line of text
ROWS = 24  # pictures shown, at most
INK, PAPER = "#222222", "#f2f2f0"


class Decodes:
    """Keeps the middle of each decoded picture of one ratio, at its own size; `evaluate` calls it for each.

    Args:
        ratio: of the sizes, the one that is shown.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self._rows: dict[Path, dict[str, tuple[Image.Image, float | None]]] = {}

    def __call__(self, path: Path, ratio: float, method: str, picture: torch.Tensor, psnr: float | None) -> None:
        """Keep a picture, (1, 3, H, W) in [0, 1]; `psnr` in dB is written below it if there is one."""
        if ratio != self.ratio or (path not in self._rows and len(self._rows) == ROWS):
            return
        height, width = picture.shape[-2:]
        top, left = max(0, height - TILE) // 2, max(0, width - TILE) // 2
        cut = picture[0, :, top : top + TILE, left : left + TILE].cpu() * 2.0 - 1.0
        self._rows.setdefault(path, {})[method] = (image_of(cut), psnr)

    def sheet(self) -> Image.Image:
        """All of them. Raises ValueError if none was kept."""
        if not self._rows:
            raise ValueError(f"no picture was decoded at the ratio {self.ratio:g}")
        columns = list(dict.fromkeys(method for row in self._rows.values() for method in row))
        step, below = TILE + GAP, TILE + LABEL + GAP
        sheet = Image.new("RGB", (GAP + len(columns) * step, LABEL + GAP + len(self._rows) * below), PAPER)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for column, method in enumerate(columns):
            left = GAP + column * step
            draw.text((left, GAP // 2), Path(method).name, fill=INK, font=font)
            for row, (path, cuts) in enumerate(self._rows.items()):
                cut, psnr = cuts[method]
                top = LABEL + GAP + row * below
                sheet.paste(cut, (left, top))
                text = path.name if psnr is None else f"{psnr:.2f} dB"
                draw.text((left, top + TILE + 2), text, fill=INK, font=font)
        return sheet
