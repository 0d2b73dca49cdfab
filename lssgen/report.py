"""A run on disk: its pictures as PNG with settings inside, and one JSON-ready object of what was measured."""

from __future__ import annotations

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
from lssgen.schedule import Plan
from lssgen.scoring import Score

Scorer = Callable[[Image], dict[str, Score]]


def write_run(
    events: Iterable[Event],
    request: GenerationRequest,
    out: Path,
    plan: Plan,
    scorer: Scorer | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Drain the events of a one-seed run, write every picture below `out`, score, and return the run as a dict.

    An arm that failed has only its `error`; the pictures it made before are on disk.

    Args:
        events: from `Engine.compare` or `Engine.generate`.
        request: what was asked, with exactly one seed.
        out: folder for `SEED-ARM.png` and `SEED-ARM-stageK.png`, made if missing.
        plan: of the request.
        scorer: scores a finished picture, after both arms are done; None for no scores.
        facts: put into each PNG's settings and the dict, such as `Engine.facts`.
    """
    (seed,) = request.seeds
    counts = {"lssgen": len(plan.stages), "baseline": len(plan.baseline)}
    start, first_picture = time.perf_counter(), None
    arms: dict[str, dict[str, Any]] = {}
    finals: dict[str, Image] = {}
    files: dict[str, list[str]] = {"lssgen": [], "baseline": []}
    for event in events:
        match event:
            case StageFinished():
                if event.arm == "lssgen" and not files["baseline"]:
                    first_picture = first_picture or time.perf_counter() - start
                last = event.index == counts[event.arm] - 1
                path = out / (f"{seed}-{event.arm}" + ("" if last else f"-stage{event.index + 1}") + ".png")
                save_png(event.images[0], path, request, arm=event.arm, stage=event.index + 1, **facts)
                files[event.arm].append(str(path))
            case ArmFinished():
                arms[event.arm] = _arm(event, files[event.arm])
                finals[event.arm] = event.images[0]
            case ArmFailed():
                arms[event.arm] = {"error": event.message}
    for arm, image in finals.items():
        arms[arm]["scores"] = scores_dict(scorer(image)) if scorer else {}
    arms = {arm: arms[arm] for arm in ("lssgen", "baseline") if arm in arms}
    run = {"seed": seed, **facts, "arms": arms, "first_picture_seconds": first_picture}
    return {**run, **_speedups(arms, plan.predicted_speedup)}


def failures(runs: list[dict[str, Any]]) -> list[str]:
    """What went wrong, one line for each failed arm."""
    return [
        f"seed {run['seed']}: the {arm} arm failed: {result['error']}"
        for run in runs
        for arm, result in run["arms"].items()
        if "error" in result
    ]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs that did not fail: each arm's seconds, the speed-ups, the time to the first picture.

    The latter over the runs in which LSSGen came first, None if all of those failed.
    """
    runs = [run for run in runs if not failures([run])]
    if not runs:
        return {"runs": 0}
    arms = {arm: [run["arms"][arm]["seconds"] for run in runs] for arm in runs[0]["arms"]}
    first = [run["first_picture_seconds"] for run in runs if run["first_picture_seconds"] is not None]
    return {
        "runs": len(runs),
        "first_picture_seconds": median(first) if first else None,
        "seconds": {
            arm: {phase: median(row[phase] for row in rows) for phase in rows[0]} for arm, rows in arms.items()
        },
        **{name: median(run[name] for run in runs) for name in runs[0] if name.endswith(("speedup", "speedup_total"))},
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _arm(event: ArmFinished, files: list[str]) -> dict[str, Any]:
    stages = [
        {
            "height": stage.height,
            "width": stage.width,
            "num_steps": stage.num_steps,
            "seconds": stage.seconds,
            "image": file,
        }
        for stage, file in zip(event.stages, files, strict=True)
    ]
    return {"image": files[-1], "stages": stages, "seconds": asdict(event.seconds)}


def scores_dict(scores: dict[str, Score]) -> dict[str, Any]:
    """JSON form: each metric's value or None, and beside a None its reason as `NAME_reason`."""
    result: dict[str, Any] = {name: score.value for name, score in scores.items()}
    return result | {f"{name}_reason": score.reason for name, score in scores.items() if score.value is None}


def _speedups(arms: dict[str, dict[str, Any]], predicted: float) -> dict[str, float]:
    if any("seconds" not in arms.get(arm, {}) for arm in ("lssgen", "baseline")):
        return {"predicted_speedup": predicted}
    fast, slow = arms["lssgen"]["seconds"], arms["baseline"]["seconds"]
    return {
        "speedup": slow["denoise"] / fast["denoise"],
        "speedup_total": slow["total"] / fast["total"],
        "predicted_speedup": predicted,
    }


def run_text(run: dict[str, Any]) -> str:
    """One run of `write_run` for people."""
    lines = [f"seed {run['seed']}"]
    for arm, result in run["arms"].items():
        if "error" in result:
            continue
        seconds = "  ".join(f"{phase} {value:.2f}" for phase, value in result["seconds"].items())
        scores = "  ".join(f"{name} {value}" for name, value in result["scores"].items())
        lines += [f"  {arm:9} {result['image']}", f"            seconds: {seconds}"]
        lines += [f"            scores: {scores}"] if scores else []
    if "speedup" in run:
        lines.append(
            f"  speed-up of the denoising {run['speedup']:.2f} (predicted {run['predicted_speedup']:.2f}), "
            f"of everything {run['speedup_total']:.2f}"
        )
    return "\n".join(lines)
