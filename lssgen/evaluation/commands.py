"""The command line of `eval-embedded`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lssgen.evaluation import PARTS


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds it to the command line."""
    parser = commands.add_parser("eval-embedded", help="measure the embedded model against its training data")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emoji/ and emoji_svg.zip")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the pictures, to go on from")
    parser.add_argument("--model", default="embedded", help="'embedded', or a folder trained on the same captions")
    parser.add_argument("--share", type=float, default=1.0, help="share of the fixed prompts in (0, 1]; 1 takes hours")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure, all if left out")
    parser.add_argument("--side", type=int, default=1024, help="pixels; LSSGen starts at half of it")
    parser.add_argument("--steps", type=int, default=20, help="num_inference_steps of the native run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lssgen.engine import Engine
    from lssgen.evaluation.embedded import evaluate
    from lssgen.request import GenerationRequest

    request = GenerationRequest(
        prompt="evaluation", height=args.side, width=args.side, start=args.side // 2, steps=args.steps
    )
    say = (lambda line: None) if args.json else (lambda line: print(line, file=sys.stderr, flush=True))
    report = evaluate(Engine(args.model), args.data, request, args.work, args.share, say, args.only)
    print(json.dumps(report) if args.json else text(report))
    return 0


def text(report: dict) -> str:
    """The report in lines."""
    lines = []
    for arm, parts in report.get("alignment", {}).items():
        labels, seeds = parts["labels"], parts["seeds"]
        lines.append(
            f"{arm}: label in the nearest five {labels['label_top5']:.0%}, nearest {labels['label_top1']:.0%}, style "
            f"{labels['style']:.0%} of {labels['pictures']} pictures"
        )
        for name in ("scenes", "held_out_pairs"):
            row = parts[name]
            lines.append(
                f"{arm}, {name.replace('_', ' ')}: background {row['background']:.0%}, both objects "
                f"{row['both_objects']:.0%} (left {row['left_object']:.0%}, right {row['right_object']:.0%}) of "
                f"{row['pictures']}; distance to the nearest training picture {row['median_distance']:.0f}/255"
            )
        if seeds["between_seeds"] is not None and seeds["between_prompts"] is not None:
            lines.append(
                f"{arm}, distance between seeds {seeds['between_seeds']:.0f}/255, between prompts "
                f"{seeds['between_prompts']:.0f}/255"
            )
    for side, row in report.get("reconstruction", {}).items():
        lines.append(f"reconstruction at {side} px: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}")
    for sizes, rows in report.get("upsampler", {}).items():
        found = ", ".join(
            f"{r['method']} {r['psnr']:.2f} dB (SSIM {r['ssim']:.3f}, spectrum {r['spectrum_error']:.1f} dB)"
            for r in rows
        )
        lines.append(f"{sizes} px: {found}")
    for name, row in report.get("spectrum", {}).items():
        if isinstance(row, dict):
            lines.append(f"spectrum, {name}: {row['rms']:.2f} dB from the data, {row['upper_half']:+.2f} dB at the top")
    return "\n".join(lines)
