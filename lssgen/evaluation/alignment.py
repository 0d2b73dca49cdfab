"""Whether pictures show what was asked: label and style by the nearest training picture, background, sides, seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

import torch

from lssgen.evaluation.asked import Asked
from lssgen.evaluation.nearest import BACKGROUND_DISTANCE, Gallery, border_distance, small
from lssgen.training import data as D
from lssgen.training import scenes as S

Draw = Callable[[Asked], torch.Tensor]  # (3, h, w), 0 to 255


def of_labels(asked: Sequence[Asked], draw: Draw, gallery: Gallery) -> dict[str, Any]:
    """Shares of pictures whose label is the nearest, or among the five nearest; whose nearest one is of the style."""
    rows = []
    for a in asked:
        wanted = gallery.pictures[a.example.objects[0]]
        ranked, _ = gallery.ranked(draw(a))
        top = gallery.top_labels(ranked)
        rows.append((wanted.label in top, wanted.label == top[0], gallery.pictures[ranked[0]].style == wanted.style))
    top5, top1, style = (fmean(column) for column in zip(*rows, strict=True))
    return {"pictures": len(rows), "label_top5": top5, "label_top1": top1, "style": style}


def of_scenes(asked: Sequence[Asked], draw: Draw, gallery: Gallery) -> dict[str, Any]:
    """Shares of scenes with the right background, and with the objects found on their sides (five nearest labels).

    `median_distance` is that of whole scenes to the nearest training picture on the same background, root mean square,
    of 255: a scene copied from the data would be near it.
    """
    rows, distances = [], []
    for a in sorted(asked, key=lambda a: a.example.background or ""):  # one background of the gallery after the other
        picture, background = draw(a), a.example.background
        colour = D.COLOURS[background] if background else D.WHITE
        found = []
        for i, (top, left, side) in zip(a.example.objects, S.boxes(a.example, picture.shape[-1]), strict=True):
            ranked, _ = gallery.ranked(picture[:, top : top + side, left : left + side], background)
            found.append(gallery.pictures[i].label in gallery.top_labels(ranked))
        rows.append((border_distance(picture, colour) <= BACKGROUND_DISTANCE, *found, all(found)))
        distances.append(gallery.ranked(picture, background)[1])
    right, left_object, right_object, both = (fmean(column) for column in zip(*rows, strict=True))
    return {
        "pictures": len(rows),
        "background": right,
        "left_object": left_object,
        "right_object": right_object,
        "both_objects": both,
        "median_distance": median(distances),
    }


def of_seeds(groups: Sequence[Sequence[Asked]], draw: Draw) -> dict[str, Any]:
    """Mean distance at 64 px, of 255, between pictures of one prompt, and between those of different prompts."""
    shown = [[small(draw(a)) for a in group] for group in groups]
    within = [_distance(a, b) for group in shown for a, b in combinations(group, 2)]
    between = [_distance(a, b) for a, b in combinations([group[0] for group in shown], 2)]
    return {
        "prompts": len(shown),
        "seeds": len(shown[0]),
        "between_seeds": fmean(within) if within else None,
        "between_prompts": fmean(between) if between else None,
    }


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())
