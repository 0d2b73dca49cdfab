"""Training data of the documented layout, drawn here: discs of different sizes and colours."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

STYLES = {"flat": "noto", "glossy": "fluent_color", "3d": "fluent_3d"}


def make(root: Path, labels: Sequence[str]) -> Path:
    """`root` with every label in three styles, and an archive without vectors."""
    rows = []
    for k, label in enumerate(labels):
        for style, source in STYLES.items():
            size = 256 if style == "3d" else 512
            image = Image.new("RGBA", (size, size))
            box = (size // 8, size // 8, size * 3 // 4, size * (7 - k % 4) // 8)
            ImageDraw.Draw(image).ellipse(box, (60 * k % 256, 90, 200 - 3 * k % 150, 255))
            file = f"{source}/{k}.webp"
            (root / "emoji" / source).mkdir(parents=True, exist_ok=True)
            image.save(root / "emoji" / file)
            rows.append([file, source, style, label, "objects", f"{label}|thing", size])
    with (root / "emoji" / "captions.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["file", "source", "style", "label", "group", "keywords", "size"], *rows])
    zipfile.ZipFile(root / "emoji_svg.zip", "w").close()
    return root
