"""The fixed prompts of an evaluation: drawn from the captions by a seed, never by looking at pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lssgen.training import data as D
from lssgen.training import scenes as S

SEED = 7
LABELS, SCENES, PAIRS = 200, 100, 50
PROMPTS, SEEDS = 16, 4  # of the diversity over seeds


@dataclass(frozen=True)
class Asked:
    """One picture to draw, and what is on it.

    text: the prompt.
    example: its pictures (indices), background and places.
    seed: of the noise.
    """

    text: str
    example: S.Example
    seed: int


def labels(pictures: list[D.Picture]) -> list[Asked]:
    """Label x style on white: "glossy palm tree"."""
    rng = random.Random(SEED)
    chosen = [rng.randrange(len(pictures)) for _ in range(LABELS)]
    return [Asked(f"{pictures[i].style} {pictures[i].label}", S.Example((i,)), k) for k, i in enumerate(chosen)]


def scenes(pictures: list[D.Picture], held_out: bool) -> list[Asked]:
    """Two objects on a plain colour: pairs of labels that training may show, or those kept out of it."""
    rng, found = random.Random(SEED + 1 + held_out), []
    of_style = {s: [i for i, p in enumerate(pictures) if p.style == s] for s in D.STYLES}
    styles = [s for s, ids in of_style.items() if ids]
    while len(found) < (PAIRS if held_out else SCENES):
        left, right = rng.sample(of_style[rng.choice(styles)], 2)
        a, b, colour = pictures[left], pictures[right], rng.choice(list(D.COLOURS))
        if D.held_out_pair(a.label, b.label) == held_out:
            text = S.on_background(f"a {a.style} {a.label} next to a {b.style} {b.label}", colour)
            found.append(Asked(text, S.Example((left, right), colour), len(found)))
    return found


def seeds(pictures: list[D.Picture]) -> list[list[Asked]]:
    """Some of the label prompts, each with several seeds."""
    return [[Asked(a.text, a.example, seed) for seed in range(SEEDS)] for a in labels(pictures)[:PROMPTS]]


def share_of(things: list, share: float) -> list:
    """The first so many of a list, at least one."""
    return things[: max(1, round(len(things) * share))]
