"""The commands train-upsampler and eval-upsampler: their options and what runs them. Heavy imports are inside."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from lssgen.options import make_folder
from lssgen.training import RATIOS


def add_commands(commands: argparse._SubParsersAction) -> None:
    """train-upsampler and eval-upsampler, among a parser's commands."""
    train = commands.add_parser("train-upsampler", help="train a latent upsampler for any VAE on a folder of pictures")
    _vae_arguments(train, required=False)
    _training_arguments(train)
    train.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    train.set_defaults(run=_train)
    measure = commands.add_parser(
        "eval-upsampler", help="measure latent upsamplers by decoded pictures, beside methods without weights"
    )
    _vae_arguments(measure, required=True)
    measure.add_argument("--device", help="cpu, cuda, cuda:1 or mps; a GPU if there is one")
    measure.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="upsamplers' folders, with config.json",
    )
    measure.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help="of the sizes, each above 1")
    measure.add_argument("--limit", type=int, default=0, help="pictures at most (0: all)")
    measure.add_argument("--every", type=int, default=1, help="take every n-th picture, in the order of their names")
    measure.add_argument(
        "--sheet", type=Path, metavar="FILE", help="save the decoded pictures side by side, at the ratio named first"
    )
    measure.add_argument("--json", action="store_true", help="print one JSON object")
    measure.set_defaults(run=_evaluate)


def _vae_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--vae", required=required, help="folder or hub id of an autoencoder or a pipeline")
    parser.add_argument(
        "--tiny", action="store_true", default=None, help="--vae DIR/taef1 is a pair of TAESD's encoder and decoder"
    )
    parser.add_argument("--key", help="name of the latent space, such as flux1; that of a known VAE if left out")
    parser.add_argument("--images", required=required, help="folder of jpg, png or webp pictures, and those below it")


def _training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the upsampler and its checkpoints")
    parser.add_argument("--minutes", type=float, help="of training in all, --resume or not (20); 0: calibrate only")
    parser.add_argument("--steps", type=int, help="so many steps in all in place of --minutes")
    parser.add_argument("--batch", type=int, help="crops a step and process (8)")
    parser.add_argument("--learning-rate", type=float, help="at its highest (0.004; of a round trip 0.0001)")
    parser.add_argument("--seed", type=int, help="of new weights, crops and noise (0)")
    parser.add_argument("--size", help="small; large, up to 3 M parameters; or round-trip, of a TAESD's layers (small)")
    parser.add_argument(
        "--init", nargs="+", metavar="DIR",
        help="an upsampler's folder to start from, or several for the mean of their weights; --size may be larger",
    )  # fmt: skip
    parser.add_argument(
        "--keep-doubling", action="store_true", default=None, help="train only --init's layers for other ratios than 2"
    )
    parser.add_argument("--mixed-precision", dest="precision", metavar="no|bf16|fp16", help="if left out the faster")
    parser.add_argument("--pixels-from", type=float, help="share of the training after which pixels count (0.5)")
    parser.add_argument("--latents", type=float, help="weight of the latents' own error beside pixels (0.1)")
    parser.add_argument("--energy", type=float, help="weight of fine detail's energy: more is sharper (0.3)")
    parser.add_argument("--texture", type=float, help="the same of the finest, which the small picture lacks (0)")
    parser.add_argument("--spectrum", type=float, help="weight of fine detail's power at each frequency (0)")
    parser.add_argument("--colours", type=float, help="weight of the mean colours of each picture (5)")
    parser.add_argument(
        "--distill", type=float, metavar="SHARE",
        help="learn not true pictures but better ones than --teacher's, to this share, 0 to 1, as sharp as true ones",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", nargs="+", metavar="DIR", help="upsamplers' folders, of which the mean teaches (those of --init)"
    )
    parser.add_argument("--contrast", type=float, help="factor of the detail in the latents at the end (1)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from --out, by its own settings where none is given"
    )
    parser.add_argument("--log", type=Path, metavar="DIR", help="write TensorBoard logs")
    parser.add_argument("--push-to-hub", default="", metavar="REPO", help="upload it at the end, for all to see")


def _train(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from lssgen.training.recipe import Training, best_precision, recall, resumed
    from lssgen.training.train_upsampler import train

    names = [field.name for field in fields(Training)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in ("init", "teacher"):  # to be found again from elsewhere
        if getattr(args, name):
            given[name] = [str(Path(folder).expanduser().resolve()) for folder in getattr(args, name)]
    if args.resume:
        asked = resumed(recall(args.out), given)
    elif args.vae is None or args.images is None:
        raise ValueError("--vae and --images are needed, or --resume")
    else:
        asked = Training(**{"precision": best_precision(), **given})
    say = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    facts = train(asked, args.out, resume=args.resume, log=args.log, push_to_hub=args.push_to_hub, say=say)
    if args.json and facts:
        print(json.dumps(facts))
    elif facts:
        print(f"{args.out}: use it by --upsampler-from {args.out}, or as upsampler/ in the model's folder")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from lssgen.families.placement import placement
    from lssgen.training import eval_upsampler, photos, vaes
    from lssgen.training.decodes import Decodes

    if args.every < 1 or args.limit < 0:
        raise ValueError(f"--every is {args.every} and --limit {args.limit}; they must be at least 1 and 0")
    if args.sheet and args.sheet.suffix.lower() not in photos.ENDINGS:
        raise ValueError(f"--sheet is {args.sheet}; its name must end in {', '.join(photos.ENDINGS)}")
    if args.sheet:
        make_folder(args.sheet.parent, "--sheet")
    device = placement(args.device).device
    vae = vaes.load(args.vae, is_tiny=bool(args.tiny), key=args.key or "", device=device)
    paths = photos.find(Path(args.images).expanduser(), 4 * vae.multiple, least=1).paths
    paths = paths[:: args.every][: args.limit or None]
    learned = {str(folder): eval_upsampler.checkpoint(folder, vae) for folder in args.checkpoint}
    decodes = Decodes(args.ratios[0])
    rows = eval_upsampler.evaluate(
        vae, paths, learned, args.ratios, device=device,
        progress=partial(print, file=sys.stderr, flush=True), show=decodes if args.sheet else lambda *shown: None,
    )  # fmt: skip
    facts = {"vae": vae.name, "pictures": len(paths), "rows": [row.to_dict() for row in rows]}
    print(json.dumps(facts) if args.json else eval_upsampler.table(rows), flush=True)
    if args.sheet:
        decodes.sheet().save(args.sheet)
    return 0
