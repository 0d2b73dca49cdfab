"""Pictures of a folder: found and counted, read, and brought to another size."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
LEAST, FEWEST = 8, 4  # usable pictures of a folder, and what may be left of them as broken ones are found
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises


@dataclass
class Photos:
    """The usable pictures below a folder, in the order of their names.

    Attributes:
        side: pixels of a crop's side; pictures with a shorter one are left out.
        paths: of the usable ones.
        sizes: their (width, height) in pixels.
        small, broken: how many were left out as too small and as unreadable; broken ones are found when drawn, too.
    """

    side: int
    paths: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    small: int = 0
    broken: int = 0

    def __str__(self) -> str:
        return f"{len(self.paths)} pictures; {self.small} too small and {self.broken} broken left out"

    def split(self, most: int, before: Collection[str] = ()) -> tuple[Photos, list[Path]]:
        """The same without some, and these: those of the paths `before` that are there, else one in eight, evenly
        spread, at most `most`. Broken ones among them are counted, and in neither."""
        count = max(1, min(most, len(self.paths) // 8))
        apart = {k for k, path in enumerate(self.paths) if str(path) in before}
        apart = apart or {k * len(self.paths) // count for k in range(count)}
        rest = [k for k in range(len(self.paths)) if k not in apart]
        whole = [self.paths[k] for k in sorted(apart) if _is_whole(self.paths[k])]
        paths, sizes = [self.paths[k] for k in rest], [self.sizes[k] for k in rest]
        return replace(self, paths=paths, sizes=sizes, broken=self.broken + len(apart) - len(whole)), whole

    def weights(self) -> list[float]:
        """How often to draw each: by the number of crops that it holds."""
        return [width * height / self.side**2 for width, height in self.sizes]


def find(folder: Path, side: int, least: int = LEAST) -> Photos:
    """The pictures below a folder with a short side of at least `side` pixels.

    Raises:
        ValueError: if there is no such folder, or fewer than `least` usable pictures in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name one with jpg, png or webp pictures")
    found = Photos(side)
    for path in sorted(Path(base) / name for base, _, names in os.walk(folder) for name in names):
        if path.suffix.lower() not in ENDINGS:
            continue
        try:
            with Image.open(path) as image:
                size = image.size
        except BROKEN:
            found.broken += 1
            continue
        if min(size) < side:
            found.small += 1
            continue
        found.paths.append(path)
        found.sizes.append(size)
    if len(found.paths) < least:
        raise ValueError(
            f"{folder} has {found}; at least {least} jpg, png or webp pictures of at least {side} px a side are needed"
        )
    return found


def _is_whole(path: Path) -> bool:
    try:
        read(path)
    except BROKEN:
        return False
    return True


def read(path: Path, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A picture as RGB, what is transparent laid on `colour`. Raises one of BROKEN."""
    with Image.open(path) as image:
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image).convert("RGB")
        return image.convert("RGB")


def pixels_of(image: Image.Image) -> torch.Tensor:
    """(3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1.0


def image_of(pixels: torch.Tensor) -> Image.Image:
    """The picture of (3, H, W) in [-1, 1]: the way back from `pixels_of`."""
    return Image.fromarray(((pixels + 1.0) * 127.5).round().byte().permute(1, 2, 0).numpy())


def shrink(pixels: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    """(B, 3, H, W) to (B, 3, height, width) by antialiased `bicubic`, or by `area`."""
    if mode == "area":
        return F.interpolate(pixels, size=(height, width), mode="area")
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
