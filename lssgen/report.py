"""A run on disk: its pictures as PNG with settings inside, and one JSON-ready object of what was measured."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from PIL.Image import Image

from lssgen.events import ArmFailed, ArmFinished, Event, StageFinished
from lssgen.pictures import save_png
from lssgen.request import GenerationRequest
from lssgen.scoring import Score

Scorer = Callable[[Image], dict[str, Score]]


class RunFailed(RuntimeError):
    """An arm broke off; the pictures made before are on disk."""


def write_run(
    events: Iterable[Event],
    request: GenerationRequest,
    out: Path,
    predicted_speedup: float,
    scorer: Scorer | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Drain the events of a one-seed run, write every picture below `out`, score, and return the run as a dict.

    Args:
        events: from `Engine.compare` or `Engine.generate`.
        request: what was asked, with exactly one seed.
        out: folder for `SEED-ARM.png` and `SEED-ARM-stageK.png`, made if missing.
        predicted_speedup: of the plan.
        scorer: scores a finished picture, after both arms are done; None for no scores.
        facts: put into each PNG's settings beside the request, such as the model's name.

    Raises:
        RunFailed: if an arm failed.
    """
    (seed,) = request.seeds
    start, first_picture = time.perf_counter(), None
    arms: dict[str, dict[str, Any]] = {}
    finals: dict[str, Image] = {}
    stage_files: list[str] = []
    for event in events:
        match event:
            case StageFinished():
                first_picture = first_picture or time.perf_counter() - start
                name = f"{seed}-{event.arm}-stage{event.index + 1}.png"
                stage_files.append(str(save_png(event.images[0], out / name, request, arm=event.arm, **facts)))
            case ArmFinished():
                name = f"{seed}-{event.arm}.png"
                image = save_png(event.images[0], out / name, request, arm=event.arm, **facts)
                finals[event.arm] = event.images[0]
                arms[event.arm] = _arm(event, str(image), stage_files)
                stage_files = []
            case ArmFailed():
                raise RunFailed(f"the {event.arm} arm failed: {event.message}")
    for arm, image in finals.items():
        arms[arm]["scores"] = scores_dict(scorer(image)) if scorer else {}
    run = {"seed": seed, "arms": arms, "first_picture_seconds": first_picture}
    return {**run, **_speedups(arms, predicted_speedup)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs: each arm's seconds, the speed-ups, and the time to the first picture."""
    phases = runs[0]["arms"]["lssgen"]["seconds"]
    of = lambda get: median(map(get, runs))  # noqa: E731
    result: dict[str, Any] = {
        "runs": len(runs),
        "first_picture_seconds": of(lambda run: run["first_picture_seconds"]),
        "seconds": {
            arm: {phase: of(lambda run, a=arm, p=phase: run["arms"][a]["seconds"][p]) for phase in phases}
            for arm in runs[0]["arms"]
        },
    }
    for name in ("speedup", "speedup_total", "predicted_speedup"):
        if name in runs[0]:
            result[name] = of(lambda run, n=name: run[n])
    return result


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _arm(event: ArmFinished, image: str, stage_files: list[str]) -> dict[str, Any]:
    stages = [
        {
            "height": stage.height,
            "width": stage.width,
            "num_steps": stage.num_steps,
            "seconds": stage.seconds,
            "image": file,
        }
        for stage, file in zip(event.stages, stage_files, strict=True)
    ]
    return {"image": image, "stages": stages, "seconds": asdict(event.seconds)}


def scores_dict(scores: dict[str, Score]) -> dict[str, Any]:
    """JSON form: each metric's value or None, and beside a None its reason as `NAME_reason`."""
    result: dict[str, Any] = {name: score.value for name, score in scores.items()}
    return result | {f"{name}_reason": score.reason for name, score in scores.items() if score.value is None}


def _speedups(arms: dict[str, dict[str, Any]], predicted: float) -> dict[str, float]:
    if "baseline" not in arms:
        return {"predicted_speedup": predicted}
    fast, slow = arms["lssgen"]["seconds"], arms["baseline"]["seconds"]
    return {
        "speedup": slow["denoise"] / fast["denoise"],
        "speedup_total": slow["total"] / fast["total"],
        "predicted_speedup": predicted,
    }
