"""Command-line options that the page's server and the commands share, and a command that both name."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def add_placement(parser: argparse.ArgumentParser) -> None:
    """--device, --dtype and --offload, as `lssgen.families.placement.placement` takes them."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps; a GPU if there is one")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; on a CPU float32, on a GPU bfloat16")
    parser.add_argument("--offload", help="on a GPU: none, model, sequential; the first that fits if left out")


def training_command(model: str) -> str:
    """What trains a learned upsampler for a model, its folder or hub id, that has none."""
    return f"python -m lssgen train-upsampler --vae {shlex.quote(model)} --images DIR --out DIR"


def make_folder(path: Path, option: str = "--out") -> None:
    """A folder to write into, before the work whose result it takes. Raises ValueError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = f"which cannot be written ({error.strerror}); name another folder"
        raise ValueError(f"{option} is {path}, {hint}") from error
