"""What the training pictures show and the words for it: one to three objects, places, hues and backgrounds.

An `Example` is drawn by `Examples`, painted at any size by `pixels_of` and captioned by `Examples.caption`: everything
that is painted is named, everything that is named is painted. Scenes are composed when they are wanted, so there are
as many as there are draws; pairs of labels that `data.held_out_pair` names never come.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from lssgen.training import data as D

MOST = 3  # objects of a scene
THUMB = 64  # px of the pictures that hues are judged on, and that T5 learns
HUES = {"red": 0, "orange": 28, "yellow": 54, "green": 120, "cyan": 184, "blue": 222, "purple": 276, "pink": 328}
HUED_MINIMUM = (0.3, 0.9)  # of a picture's colours: mean saturation, and how far they agree on one hue
# setting -> words, share of the height that is above, colours from top to bottom above and below
SETTINGS = {
    "meadow": ("on grass under a blue sky", 0.62, ((118, 182, 238), (206, 232, 250)), ((106, 178, 84), (70, 138, 62))),
    "night": ("at night", 0.7, ((14, 18, 54), (52, 54, 118)), ((24, 34, 40), (14, 20, 26))),
    "table": ("on a wooden table", 0.6, ((244, 232, 210), (232, 216, 188)), ((168, 116, 72), (138, 92, 54))),
}
# words -> row and column of a half-sized object's corner, in quarters of the side
PLACES = {
    "on the left": (1, 0), "on the right": (1, 2), "at the top": (0, 1), "at the bottom": (2, 1),
    "at the top left": (0, 0), "at the top right": (0, 2), "at the bottom left": (2, 0), "at the bottom right": (2, 2),
}  # fmt: skip
ABOVE = "above"
BACKGROUNDS = (0.6, 0.2, 0.2)  # of backgrounds that are not white: plain colours, gradients, settings


@dataclass(frozen=True)
class Example:
    """What a training picture shows.

    objects: one to three pictures (indices), left to right, of one style; two may be one ABOVE the other (`place`).
    background: None (white), a colour's name, "teal to navy" (top to bottom), or a key of SETTINGS.
    hue, place: of a single object only: a key of HUES it is turned to; a key of PLACES where it stands, half as large.
    """

    objects: tuple[int, ...]
    background: str | None = None
    hue: str | None = None
    place: str | None = None


def stored(example: Example) -> list:
    """As JSON holds it."""
    return [list(example.objects), example.background, example.hue, example.place]


def restored(row: list) -> Example:
    """From JSON."""
    return Example(tuple(row[0]), *row[1:])


def boxes(example: Example, size: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of each object in pixels."""
    n = len(example.objects)
    if example.place in PLACES:
        shares = [(*(quarter / 4 for quarter in PLACES[example.place]), 0.5)]
    elif example.place == ABOVE:
        shares = [(0.0, 0.25, 0.5), (0.5, 0.25, 0.5)]
    else:
        shares = [((1 - 1 / n) / 2, k / n, 1 / n) for k in range(n)]
    return [tuple(int(share * size) for share in box) for box in shares]


def colours_of(rgba: np.ndarray) -> tuple[float, float, float]:
    """(dominant hue in degrees, mean saturation, agreement in [0, 1]) of an RGBA picture."""
    h, s, v = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV"), np.float32).transpose(2, 0, 1) / 255
    alpha = rgba[..., 3] / 255
    weight = s * v * alpha
    total = max(float(weight.sum()), 1e-6)
    mean = complex((weight * np.exp(2j * np.pi * h)).sum()) / total
    return float(np.degrees(np.angle(mean))) % 360, total / max(float(alpha.sum()), 1e-6), abs(mean)


def turned(rgba: np.ndarray, hue: str) -> np.ndarray:
    """The picture with all its hues turned so that the dominant one is the named one."""
    by = HUES[hue] - colours_of(rgba)[0]
    hsv = np.array(Image.fromarray(np.ascontiguousarray(rgba[..., :3])).convert("HSV"))
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(by * 256 / 360)) % 256
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return np.concatenate([rgb, rgba[..., 3:]], -1)


def of_one_hue(pictures: list[D.Picture], stack: np.ndarray) -> list[int]:
    """Indices of the pictures that can be turned to a hue: of one clear hue, their label naming no colour."""
    named = set(HUES) | set(D.COLOURS)
    least_saturation, least_agreement = HUED_MINIMUM
    found = []
    for i, picture in enumerate(pictures):
        if not named & set(picture.label.lower().split()):
            _, saturation, agreement = colours_of(np.ascontiguousarray(stack[i]))
            if saturation > least_saturation and agreement > least_agreement:
                found.append(i)
    return found


def _fade(top: tuple, bottom: tuple, height: int) -> torch.Tensor:
    """(3, height): colours from top to bottom."""
    t = (torch.arange(height) + 0.5) / height
    return torch.stack([a + (b - a) * t for a, b in zip(top, bottom, strict=True)])


def background_pixels(name: str | None, size: int) -> torch.Tensor:
    """(3, size, size), 0 to 255."""
    if name in SETTINGS:
        _, share, above, below = SETTINGS[name]
        upper = int(size * share)
        column = torch.cat([_fade(*above, upper), _fade(*below, size - upper)], 1)
    else:
        top, _, bottom = (name or "").partition(" to ")
        first = D.COLOURS[top] if top else D.WHITE
        column = _fade(first, D.COLOURS[bottom] if bottom else first, size)
    return column[..., None].expand(3, size, size)


def rgba_of(example: Example, stack: np.ndarray | dict[int, np.ndarray]) -> np.ndarray:
    """The objects without their background, uint8 (h, w, 4)."""
    objects = [stack[i] for i in example.objects]
    if example.hue:
        objects = [turned(o, example.hue) for o in objects]
    size = objects[0].shape[0]
    if len(objects) == 1 and not example.place:
        return objects[0]
    out = np.zeros_like(objects[0])
    for rgba, (top, left, side) in zip(objects, boxes(example, size), strict=True):
        small = Image.fromarray(np.ascontiguousarray(rgba)).resize((side, side), Image.Resampling.BOX)
        out[top : top + side, left : left + side] = np.asarray(small)
    return out


def pixels_of(example: Example, stack: np.ndarray | dict[int, np.ndarray]) -> torch.Tensor:
    """(3, h, w) in [-1, 1]: the example as captioned; `stack` holds the RGBA pictures it names."""
    rgba = rgba_of(example, stack)
    return D.composite(rgba, background_pixels(example.background, rgba.shape[0]))


def on_background(text: str, background: str | None) -> str:
    """Caption with its background named; white is the default and is not."""
    if background is None:
        return text
    if background in SETTINGS:
        return f"{text} {SETTINGS[background][0]}"
    kind = "gradient" if " to " in background else "background"
    return f"{text} on {'an' if background[0] in 'aeiou' else 'a'} {background} {kind}"


def in_style(style: str, text: str, rng: random.Random) -> str:
    """The style before the words mostly, now and then behind them."""
    form = rng.choices(("{s} {t}", "{t}, {s}", "{t} in {s} style", "{t} {s}"), (0.8, 0.08, 0.06, 0.06))[0]
    return form.format(s=style, t=text)


def words_for(picture: D.Picture, rng: random.Random, keywords: float) -> str:
    """The label, now and then some keywords in its place."""
    if picture.keywords and rng.random() < keywords:
        return " ".join(rng.sample(picture.keywords, min(len(picture.keywords), rng.randint(1, 3))))
    return picture.label


class Examples:
    """Draws examples and their captions, seeded. `hued`: indices of the pictures that may be turned to a hue."""

    def __init__(self, pictures: list[D.Picture], seed: int, hued: list[int] = ()):
        self.pictures, self.hued = pictures, list(hued)
        self.rng = random.Random(seed)
        self.weights = [D.GROUP_WEIGHTS.get(p.group, 1.0) for p in pictures]
        self.of_style = {s: [i for i, p in enumerate(pictures) if p.style == s] for s in D.STYLES}
        self.of_style = {s: ids for s, ids in self.of_style.items() if ids}

    def background(self, share: float) -> str | None:
        """One that is not white with this probability."""
        if self.rng.random() >= share:
            return None
        kind = self.rng.choices(("colour", "gradient", "setting"), BACKGROUNDS)[0]
        if kind == "setting":
            return self.rng.choice(list(SETTINGS))
        return " to ".join(self.rng.sample(list(D.COLOURS), 1 if kind == "colour" else 2))

    def single(self, coloured: float = 0.25) -> Example:
        """One picture, large, on white or (`coloured`) anything else."""
        return Example((self.rng.choices(range(len(self.pictures)), self.weights)[0],), self.background(coloured))

    def scene(self, coloured: float = 0.5) -> Example:
        """One object turned to a hue or standing somewhere, or two or three of one style."""
        kind = self.rng.choices(("hue", "place", "two", "above", "three"), (0.2, 0.2, 0.35, 0.1, 0.15))[0]
        if kind == "hue" and self.hued:
            return Example((self.rng.choice(self.hued),), self.background(coloured), self.rng.choice(list(HUES)))
        if kind in ("hue", "place"):
            one = self.single(coloured)
            return Example(one.objects, one.background, place=self.rng.choice(list(PLACES)))
        objects = self.together(3 if kind == "three" else 2)
        return Example(objects, self.background(coloured), place=ABOVE if kind == "above" else None)

    def together(self, count: int) -> tuple[int, ...]:
        """So many pictures of one style, no two of them held out as a pair."""
        ids = self.of_style[self.rng.choice(list(self.of_style))]
        weights = [self.weights[i] for i in ids]
        while True:
            chosen = tuple(self.rng.choices(ids, weights, k=count))
            labels = [self.pictures[i].label for i in chosen]
            if not any(D.held_out_pair(a, b) for k, a in enumerate(labels) for b in labels[:k]):
                return chosen

    def caption(self, e: Example, keywords: float = 0.12) -> str:
        """The words for an example; they vary from call to call."""
        first = self.pictures[e.objects[0]]
        labels = [self.pictures[i].label for i in e.objects]
        if len(labels) == 1:
            words = words_for(first, self.rng, keywords)
            text = in_style(first.style, f"{e.hue} {words}" if e.hue else words, self.rng)
            text = f"small {text} {e.place}" if e.place else text
        elif len(labels) == 2:
            between = ABOVE if e.place else self.rng.choice(("next to", "next to", "and"))
            text = f"{first.style} {labels[0]} {between} a {first.style} {labels[1]}"
        else:
            text = f"{first.style} {labels[0]}, {labels[1]} and {labels[2]}"
        return on_background(f"{'a ' if self.rng.random() < 0.5 else ''}{text}", e.background)
