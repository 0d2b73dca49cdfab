"""Emoji pictures and captions: reading, rasterising, backgrounds, two-object scenes.

`--data DIR` holds `emoji/captions.csv`, the pictures it lists (RGBA WebP) and, for sizes the pictures do not
have, `emoji_svg.zip` with the vectors of the flat and glossy ones. Rasters are kept as uint8 arrays under `--work`.
"""

import csv
import io
import random
import zipfile
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


def composite(rgba: np.ndarray, background: tuple[int, int, int]) -> torch.Tensor:
    """RGBA uint8 (h, w, 4) over a solid colour -> (3, h, w) float in [-1, 1]."""
    x = torch.from_numpy(np.array(rgba)).permute(2, 0, 1).float()
    alpha = x[3:] / 255
    rgb = x[:3] * alpha + torch.tensor(background, dtype=torch.float32).view(3, 1, 1) * (1 - alpha)
    return rgb / 127.5 - 1


def scene(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two RGBA pictures side by side in one of the same size: each half as large, vertically centred."""
    size = left.shape[0]
    half = size // 2
    out = np.zeros_like(left)
    top = (size - half) // 2
    for k, rgba in enumerate((left, right)):
        small = Image.fromarray(np.ascontiguousarray(rgba)).resize((half, half), Image.Resampling.BOX)
        out[top : top + half, k * half : (k + 1) * half] = np.asarray(small)
    return out


def caption(picture: Picture, rng: random.Random, keywords: float = 0.1, article: float = 0.5) -> str:
    """ "a glossy beaver", "3d pizza slice", now and then keywords in place of the label."""
    text = picture.label
    if picture.keywords and rng.random() < keywords:
        text = " ".join(rng.sample(picture.keywords, min(len(picture.keywords), rng.randint(1, 3))))
    return f"{'a ' if rng.random() < article else ''}{picture.style} {text}"


def on_background(text: str, colour: str | None) -> str:
    """Caption with its background named; white is the default and is not."""
    return text if colour is None else f"{text} on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"


def next_to(left: Picture, right: Picture) -> str:
    """Caption of a scene of two pictures of one style."""
    return f"a {left.style} {left.label} next to a {right.style} {right.label}"


@dataclass(frozen=True)
class Example:
    """What a training picture shows: one picture or two (indices), a named colour or white, mirrored never."""

    left: int
    right: int | None = None
    colour: str | None = None


class Examples:
    """Draws examples and their captions, seeded."""

    def __init__(self, pictures: list[Picture], seed: int):
        self.pictures = pictures
        self.rng = random.Random(seed)
        self.weights = [GROUP_WEIGHTS.get(p.group, 1.0) for p in pictures]
        self.of_style = {s: [i for i, p in enumerate(pictures) if p.style == s] for s in STYLES}
        self.of_style = {s: ids for s, ids in self.of_style.items() if ids}

    def colour(self, share: float) -> str | None:
        """A named colour with this probability, else None (white)."""
        return self.rng.choice(list(COLOURS)) if self.rng.random() < share else None

    def single(self, coloured: float = 0.25) -> Example:
        """One picture."""
        return Example(self.rng.choices(range(len(self.pictures)), self.weights)[0], None, self.colour(coloured))

    def pair(self, coloured: float = 0.4) -> Example:
        """Two pictures of one style."""
        ids = self.of_style[self.rng.choice(list(self.of_style))]
        weights = [self.weights[i] for i in ids]
        left, right = self.rng.choices(ids, weights, k=2)
        return Example(left, right, self.colour(coloured))

    def caption(self, e: Example, keywords: float = 0.1) -> str:
        """The words for an example; they vary from call to call."""
        if e.right is None:
            text = caption(self.pictures[e.left], self.rng, keywords)
        else:
            text = next_to(self.pictures[e.left], self.pictures[e.right])
        return on_background(text, e.colour)


def rgba_of(e: Example, stack: np.ndarray | dict[int, np.ndarray]) -> np.ndarray:
    """The example's picture without its background."""
    return stack[e.left] if e.right is None else scene(stack[e.left], stack[e.right])


def background_of(e: Example) -> tuple[int, int, int]:
    """The example's background colour."""
    return WHITE if e.colour is None else COLOURS[e.colour]


def pixels_of(e: Example, stack: np.ndarray | dict[int, np.ndarray]) -> torch.Tensor:
    """(3, h, w) in [-1, 1]: the example as captioned; `stack` holds the RGBA pictures it names."""
    return composite(rgba_of(e, stack), background_of(e))
