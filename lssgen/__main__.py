"""The command line, python -m lssgen COMMAND: see --help for the commands."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lssgen import __version__
from lssgen.evaluation import commands as evaluation_commands
from lssgen.options import add_placement, make_folder
from lssgen.request import BASELINES, NOISES, SCHEDULES, UPSAMPLERS, GenerationRequest, check_whole
from lssgen.training import upsampler_commands

if TYPE_CHECKING:
    from lssgen.engine import Engine
    from lssgen.schedule import Plan


PROMPT = "glossy red apple"  # of benchmarks


class Parser(argparse.ArgumentParser):
    """Errors are one line and exit with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 if a run failed, 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except ValueError as error:
        print(f"lssgen {args.command}: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        print(f"lssgen {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lssgen {args.command}: stopped", file=sys.stderr)
        return 130


def _parser() -> Parser:
    parser = Parser(prog="lssgen", description="Staged text-to-image generation in latent space, beside a baseline.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="show the stages, sigmas and predicted speed-up; needs no weights")
    plan.add_argument("--family", help="plan for a family's published geometry instead of a model, such as flux")
    _plan_arguments(plan)
    plan.set_defaults(run=_plan)

    generate = commands.add_parser("generate", help="make pictures by LSSGen alone")
    compare = commands.add_parser("compare", help="make pictures by LSSGen and by the baseline, and time both")
    for command, run in ((generate, _generate), (compare, _compare)):
        _plan_arguments(command)
        _run_arguments(command)
        _engine_arguments(command)
        command.set_defaults(run=run)
    compare.add_argument("--baseline", choices=BASELINES, default="native", help="what LSSGen is compared with")

    sheet = commands.add_parser("sheet", help="make a contact sheet of a list of prompts, natively and by LSSGen")
    sheet.add_argument("prompts", type=Path, metavar="FILE", help="text file with one prompt a line")
    sheet.add_argument("--out", type=Path, required=True, help="the picture to write, such as sheet.png")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--first", type=int, help="only so many of the prompts, from the top")
    _plan_arguments(sheet)
    _engine_arguments(sheet)
    sheet.set_defaults(run=_sheet)

    score = commands.add_parser("score", help="score PNG files by TOPIQ (higher is better) and PIQE (lower is better)")
    score.add_argument("images", nargs="*", type=Path, metavar="PNG")
    score.add_argument("--fetch-topiq", action="store_true", help="first download TOPIQ's weights (noncommercial use)")
    score.add_argument("--json", action="store_true", help="print one JSON object")
    score.set_defaults(run=_score)

    families = commands.add_parser("families", help="list the families that are adapted and the models known to fit")
    families.add_argument("--json", action="store_true", help="print one JSON object")
    families.set_defaults(run=_families)

    bench = commands.add_parser("bench", help="benchmarks: overhead")
    benches = bench.add_subparsers(dest="bench", required=True, metavar="BENCHMARK")
    overhead = benches.add_parser(
        "overhead", help="what an arm costs beside its networks, and over the stock calls it is made of"
    )
    _plan_arguments(overhead)
    _engine_arguments(overhead)
    overhead.add_argument("--repeat", type=int, default=5, help="interleaved repetitions; medians are reported")
    overhead.set_defaults(run=_overhead)
    upsampler_commands.add_commands(commands)
    evaluation_commands.add_commands(commands)
    return parser


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("--model", default="embedded", help="'embedded', a diffusers folder, or a hub id[@revision]")
    parser.add_argument("--height", type=int, default=1024, help="pixels")
    parser.add_argument("--width", type=int, default=1024, help="pixels")
    parser.add_argument("--start", type=int, default=512, help="short side of the first stage in pixels")
    parser.add_argument("--steps", type=int, help="num_inference_steps of the native run (the model's own if left out)")
    parser.add_argument("--sigma", type=float, default=0.75, help="sigma_init in (0, 1]: where later stages start")
    parser.add_argument("--schedule", choices=SCHEDULES, help="step rule; 'split' if --split is given, else 'paper'")
    parser.add_argument("--split", type=float, help="share of the steps spent below the last stage, in (0, 1)")
    parser.add_argument("--no-shorten", action="store_true", help="paper rule with full-length schedules everywhere")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run_arguments(parser: Parser) -> None:
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="several seeds make one run each")
    parser.add_argument("--negative", default="", help="what not to draw, where the model takes it")
    parser.add_argument("--guidance", type=float, help="guidance_scale, where the model takes one")
    parser.add_argument("--noise", choices=NOISES, default="coupled")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the PNGs, made if missing")
    parser.add_argument("--no-scores", action="store_true", help="do not score the pictures")


def _engine_arguments(parser: Parser) -> None:
    add_placement(parser)
    parser.add_argument("--upsampler", choices=UPSAMPLERS, help="learned where the model has one, else bicubic")
    parser.add_argument("--upsampler-from", type=Path, metavar="DIR", help="an upsampler's folder")


def _engine(args: argparse.Namespace) -> Engine:
    from lssgen.engine import Engine

    return Engine(args.model, args.device, dtype=args.dtype, offload=args.offload, upsampler=args.upsampler_from)


def _with_upsampler(request: GenerationRequest, engine: Engine, asked: str | None) -> GenerationRequest:
    """The request with the upsampler asked for; if none was, the learned one where there is one."""
    if asked is None and not engine.has_upsampler:
        name = engine.settings.name
        print(f"{name} has no learned upsampler: bicubic it is, or --upsampler pixel", file=sys.stderr)
        return replace(request, upsampler="bicubic")
    return replace(request, upsampler=asked or "learned")


def _plan_said(engine: Engine, request: GenerationRequest) -> Plan:
    """The plan; what it notes goes to stderr, such as the command that trains a missing upsampler."""
    plan = engine.plan(request)
    print(*(f"note: {note}\n" for note in plan.notes), sep="", end="", file=sys.stderr)
    return plan


def _request(args: argparse.Namespace, **more: Any) -> GenerationRequest:
    return GenerationRequest(
        height=args.height,
        width=args.width,
        start=args.start,
        steps=_own_steps(args) if args.steps is None else args.steps,
        sigma=args.sigma,
        schedule=args.schedule or ("paper" if args.split is None else "split"),
        split=args.split,
        shorten=not args.no_shorten,
        **more,
    )


def _own_steps(args: argparse.Namespace) -> int:
    from lssgen.families import folders, table

    family = getattr(args, "family", None)
    return (table.family(family).settings if family else folders.settings(args.model)).steps


def _plan(args: argparse.Namespace) -> int:
    from lssgen import schedule
    from lssgen.families import folders, table
    from lssgen.measured import ratio_notes

    request = _request(args, prompt="plan")
    plan = schedule.plan(request, table.family(args.family).source if args.family else folders.source(args.model))
    if not args.family and (learned := folders.upsampler_folder(args.model)):
        plan = replace(plan, notes=(*plan.notes, *ratio_notes(learned, plan.stages)))
    print(json.dumps(plan.to_dict()) if args.json else plan)
    return 0


def _generate(args: argparse.Namespace) -> int:
    return _run(args, "native", compare=False)


def _compare(args: argparse.Namespace) -> int:
    return _run(args, args.baseline, compare=True)


def _run(args: argparse.Namespace, baseline: str, *, compare: bool) -> int:
    request = _request(
        args,
        prompt=args.prompt,
        negative_prompt=args.negative,
        seeds=tuple(args.seed),
        guidance_scale=args.guidance,
        noise=args.noise,
        baseline=baseline,
    )
    from lssgen.report import failures, peak_memory_mb, run_text, summary, write_run
    from lssgen.scoring import score

    engine = _engine(args)
    request = _with_upsampler(request, engine, args.upsampler)
    plan = _plan_said(engine, request)
    make_folder(args.out)
    engine.warm_up(request)
    runs, scorer = [], None if args.no_scores else score
    for turn, seed in enumerate(request.seeds):
        single = replace(request, seeds=(seed,))
        events = engine.compare(single, baseline_first=turn % 2 == 1) if compare else engine.generate(single)
        runs.append(write_run(events, single, args.out, plan, scorer, **engine.facts(single)))
        if not args.json:
            print(run_text(runs[-1]), flush=True)
    if args.json:
        result = runs[0] if len(runs) == 1 else {"runs": runs, "summary": summary(runs)}
        print(json.dumps({**result, "notes": list(plan.notes), "peak_memory_mb": peak_memory_mb()}))
    failed = failures(runs)
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0


def _sheet(args: argparse.Namespace) -> int:
    from lssgen.sheet import contact_sheet, read_prompts

    prompts = read_prompts(args.prompts)
    if args.first is not None:
        check_whole("first", args.first, 1, len(prompts))
        prompts = prompts[: args.first]
    request = _request(args, prompt=prompts[0], seeds=(args.seed,))
    progress = (lambda line: None) if args.json else print
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {args.out}; name a PNG file, such as sheet.png")
    make_folder(args.out.parent)
    engine = _engine(args)
    request = _with_upsampler(request, engine, args.upsampler)
    _plan_said(engine, request)
    contact_sheet(engine, prompts, request, progress).save(args.out, optimize=True)
    if args.json:
        print(json.dumps({"sheet": str(args.out), "prompts": prompts}))
    return 0


def _score(args: argparse.Namespace) -> int:
    from PIL import Image

    from lssgen import scoring
    from lssgen.report import scores_dict

    if args.fetch_topiq:
        print(f"TOPIQ weights at {scoring.fetch_topiq()}", file=sys.stderr)
    elif not args.images:
        raise ValueError("no pictures; name at least one PNG file")
    results = {}
    for path in args.images:
        try:
            with Image.open(path) as image:
                results[str(path)] = scores_dict(scoring.score(image.convert("RGB")))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no readable picture ({type(error).__name__}); name a PNG file") from error
    if args.json:
        print(json.dumps({"scores": results}))
    else:
        for path, scores in results.items():
            print(path, "  ".join(f"{name} {value}" for name, value in scores.items()))
    return 0


def _families(args: argparse.Namespace) -> int:
    from lssgen.families.known import KNOWN
    from lssgen.families.table import FAMILIES

    rows, models = [family.to_dict() for family in FAMILIES.values()], [row.to_dict() for row in KNOWN.values()]
    if args.json:
        print(json.dumps({"families": rows, "models": models}))
        return 0
    for row in rows:
        pipelines = ", ".join(row["pipelines"])
        print(f"{row['name']:12} {row['title']}\n{'':12} {pipelines}; sizes in multiples of {row['multiple']} px")
        for model in (m for m in models if m["family"] == row["name"]):
            gated = ", gated" if model["gated"] else ""
            size = f"{model['weights_gb']['bfloat16']:g} GB in bfloat16"
            print(f"{'':14} {model['id']}: {model['licence']}{gated}; {size}, drawn at {model['side']} px")
    return 0


def _overhead(args: argparse.Namespace) -> int:
    from lssgen.bench import overhead

    check_whole("repeat", args.repeat, 1, 1000)
    request, engine = _request(args, prompt=PROMPT), _engine(args)
    request = _with_upsampler(request, engine, args.upsampler)
    _plan_said(engine, request)
    result = overhead(engine, request, args.repeat)
    if args.json:
        print(json.dumps(result))
    else:
        for arm, row in result["arms"].items():
            print(f"{arm:9} {row['seconds']:.2f} s, {row['outside_share']:.2%} of it outside the networks")
        for how, row in result["orchestration"].items():
            over = ", ".join(
                f"{clock} {r['over']:+.2%} ({r['low']:+.2%} to {r['high']:+.2%})" for clock, r in row.items()
            )
            print(f"orchestration over the stock calls, {how}: {over}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
