"""What was measured of a learned upsampler, as its folder tells it: `eval-upsampler --json >> DIR/measured.jsonl`.

A line is one evaluation, of that upsampler alone.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from lssgen.schedule import Stage
from lssgen.sizes import size_text

FILE = "measured.jsonl"
WORTH_TELLING = 0.3  # dB


def pixel_gain(folder: Path, ratio: float) -> float:
    """By how many dB of PSNR the pixel round trip is ahead of the learned upsampler in `folder` at this ratio of sizes.

    Doublings are most often answered by other layers than the ratios between, and tell of themselves alone. Between the
    ratios measured it is interpolated, outside of them it is that of the nearest; -inf if none is told.
    """
    doubles = math.log2(ratio).is_integer()
    alike = sorted((r, gain) for r, gain in _gains(folder).items() if math.log2(r).is_integer() == doubles)
    return float(np.interp(ratio, *zip(*alike, strict=True))) if alike else -math.inf


def ratio_notes(folder: Path, stages: tuple[Stage, ...]) -> list[str]:
    """For each growth of a stage to the next at which the pixel round trip is ahead, a sentence that says so."""
    notes = []
    for stage, after in pairwise(stages):
        ratio = math.sqrt(after.height * after.width / (stage.height * stage.width))
        if (gain := pixel_gain(folder, ratio)) >= WORTH_TELLING:
            notes.append(
                f"from {size_text((stage.height, stage.width))} to {size_text((after.height, after.width))} "
                f"(x{ratio:.3g}) the upsampler 'pixel' comes about {gain:.1f} dB nearer to the true picture than the "
                "learned one, by what was measured on photographs"
            )
    return notes


def _gains(folder: Path) -> dict[float, float]:
    """By ratio; a later line overrides an earlier one."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
        found: dict[float, dict[bool, float]] = {}
        for row in (row for line in lines if line.strip() for row in json.loads(line)["rows"]):
            if row["parameters"] or row["method"] == "pixel":
                found.setdefault(float(row["ratio"]), {})[row["method"] == "pixel"] = float(row["psnr"])
        return {ratio: psnr[True] - psnr[False] for ratio, psnr in found.items() if len(psnr) == 2 and ratio > 0}
    except (OSError, ValueError, LookupError, TypeError):  # none, or one of somebody else's making
        return {}
