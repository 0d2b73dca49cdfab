"""Emoji pictures: reading, rasterising, and which of them are held out.

`--data DIR` holds `emoji/captions.csv`, the pictures it lists (RGBA WebP) and, for sizes the pictures do not
have, `emoji_svg.zip` with the vectors of the flat and glossy ones. Rasters are kept as uint8 arrays under `--work`.
"""

import csv
import io
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

STYLES = ("flat", "glossy", "3d")
COLOURS = {
    "red": (205, 50, 50),
    "orange": (243, 146, 55),
    "yellow": (250, 214, 70),
    "green": (76, 160, 80),
    "lime": (176, 220, 80),
    "mint": (180, 232, 206),
    "teal": (32, 140, 140),
    "cyan": (90, 205, 225),
    "light blue": (170, 212, 245),
    "blue": (60, 105, 205),
    "navy": (28, 40, 92),
    "purple": (130, 70, 170),
    "lavender": (206, 190, 240),
    "pink": (246, 168, 198),
    "brown": (125, 82, 55),
    "beige": (238, 222, 190),
    "grey": (150, 150, 155),
    "black": (20, 20, 22),
}
WHITE = (255, 255, 255)
SPLIT_SEED = 0
HELD_OUT_LABELS, HELD_OUT_PAIRS = 0.05, 20  # share of the labels; one pair of labels in so many
GROUP_WEIGHTS = {"people-body": 0.5, "symbols": 0.5}  # many near-duplicates; the other groups weigh 1


@dataclass(frozen=True)
class Picture:
    """One row of captions.csv."""

    file: str
    style: str
    label: str
    group: str
    keywords: tuple[str, ...]
    size: int


def read_captions(data: Path) -> list[Picture]:
    """All pictures of DIR/emoji/captions.csv, in file order."""
    table = data / "emoji" / "captions.csv"
    if not table.is_file():
        raise ValueError(f"no training data: {table} does not exist (give the folder that holds emoji/ as --data)")
    with table.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return [
        Picture(
            r["file"],
            r["style"],
            r["label"],
            r["group"],
            tuple(k for k in r["keywords"].split("|") if k),
            int(r["size"]),
        )
        for r in rows
    ]


def held_out_labels(pictures: list[Picture]) -> frozenset[str]:
    """Labels that the autoencoder and the upsampler never see, to measure them on; text and transformer do."""
    labels = sorted({p.label for p in pictures})
    return frozenset(random.Random(SPLIT_SEED).sample(labels, int(len(labels) * HELD_OUT_LABELS)))


def held_out_pair(a: str, b: str) -> bool:
    """Whether scenes of these two labels, in any order, are kept out of all training, to measure composition."""
    key = f"{SPLIT_SEED}|{min(a, b)}|{max(a, b)}"
    return zlib.crc32(key.encode()) % HELD_OUT_PAIRS == 0


def render_svg(svg: str, size: int) -> Image.Image:
    """The vector as an RGBA picture of size x size px."""
    try:
        import resvg_py
    except ImportError as e:
        raise ValueError("pictures of this size are rendered from vectors: pip install resvg_py") from e
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)


def load_picture(data: Path, picture: Picture, size: int, archive: zipfile.ZipFile | None = None) -> np.ndarray:
    """RGBA uint8 (size, size, 4): from the vector where an archive is given and has it, else from the raster."""
    name = picture.file.rsplit(".", 1)[0] + ".svg"
    if archive is not None and size > picture.size and name in archive.NameToInfo:
        return np.asarray(render_svg(archive.read(name).decode("utf-8"), size))
    image = Image.open(data / "emoji" / picture.file).convert("RGBA")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def rasters(data: Path, work: Path, pictures: list[Picture], size: int, name: str) -> np.ndarray:
    """(N, size, size, 4) uint8, memory-mapped from WORK/NAME.npy, which is made when missing."""
    path = work / f"{name}.npy"
    if path.exists():
        stored = np.load(path, mmap_mode="r")
        if stored.shape == (len(pictures), size, size, 4):
            return stored
    vectors = data / "emoji_svg.zip"
    archive = zipfile.ZipFile(vectors) if vectors.is_file() else None
    work.mkdir(parents=True, exist_ok=True)
    part = work / f"{name}.part.npy"
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(pictures), size, size, 4))

    def one(i: int) -> None:
        out[i] = load_picture(data, pictures[i], size, archive)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(len(pictures))))
    out.flush()
    part.rename(path)
    return np.load(path, mmap_mode="r")


def random_background(rng: random.Random, white: float = 0.5) -> tuple[int, int, int]:
    """White with the given probability, else any colour."""
    if rng.random() < white:
        return WHITE
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def composite(rgba: np.ndarray, background: tuple[int, int, int] | torch.Tensor) -> torch.Tensor:
    """RGBA uint8 (h, w, 4) over a colour or a picture (3, h, w), both 0 to 255 -> (3, h, w) float in [-1, 1]."""
    x = torch.from_numpy(np.array(rgba)).permute(2, 0, 1).float()
    alpha = x[3:] / 255
    below = background if torch.is_tensor(background) else torch.tensor(background, dtype=torch.float32).view(3, 1, 1)
    return (x[:3] * alpha + below * (1 - alpha)) / 127.5 - 1
