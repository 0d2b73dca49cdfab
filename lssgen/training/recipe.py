"""What the training of an upsampler is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from lssgen.training.losses import WEIGHED
from lssgen.training.networks import ROUND_TRIP, SIZES
from lssgen.training.precision import bfloat16_pays

SETTINGS = "training.json"
PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, and how; written to OUT/training.json.

    Args:
        vae: an autoencoder's or a pipeline's folder or hub id.
        images: folder of pictures.
        tiny: `vae` is a pair of TAESD's files, see `lssgen.training.tiny`.
        key: name of the latent space, stored in the upsampler's configuration; that of a known model by default.
        minutes: of training in all, the first encoding and what came before resuming included; the learning rate
            follows it. With 0 nothing is trained: `init` is only calibrated and measured.
        steps: of training in all in place of `minutes`; 0 for none.
        batch: crops in a step of each process.
        learning_rate: of the matrices, by Muon; by default what suits the kind of upsampler.
        seed: of weights and crops.
        size: one of SIZES, or ROUND_TRIP; where it is left out the size of `init`, or small.
        init: folders of upsamplers to start from the mean of, most often of one; a smaller size is grown.
        keep_doubling: train only what answers for other ratios than 2, and leave the rest as `init` has it, in the
            float16 that all is stored in.
        precision: one of PRECISIONS.
        pixels_from: share of the training after which latents are decoded for the losses of pixels; 1 for never.
        latents: weight of the latents' own error where pixels count, too. With little of it latents become such as only
            that decoder takes for the picture.
        energy, texture: weights of the losses of energy, in the top octave that the small picture carries and in the
            large picture's finest octave: more is sharper, 0 the best PSNR.
        spectrum: weight of the loss of the power at each frequency from that top octave on, over the whole picture.
        colours: weight of the loss of mean colours.
        distill: learn what `lssgen.training.teacher` makes of `teacher`, to this share as sharp as true pictures, in
            place of true pictures.
        teacher: folders of upsamplers, of which the mean teaches; those of `init` by default.
        contrast: factor of the detail in the latents that the trained upsampler gives.

    Raises:
        ValueError: for a value that cannot be trained with.
    """

    vae: str
    images: str
    tiny: bool = False
    key: str = ""
    minutes: float = 20.0
    steps: int = 0
    batch: int = 8
    learning_rate: float | None = None
    seed: int = 0
    size: str = ""
    init: str | Sequence[str] = ()
    keep_doubling: bool = False
    precision: str = "no"
    pixels_from: float = 0.5
    latents: float = 0.1
    energy: float = 0.3
    texture: float = 0.0
    spectrum: float = 0.0
    colours: float = 5.0
    distill: float | None = None
    teacher: str | Sequence[str] = ()
    contrast: float = 1.0

    def __post_init__(self) -> None:
        for name in ("init", "teacher"):
            folders = getattr(self, name)
            folders = [folders] if isinstance(folders, str) else folders
            object.__setattr__(self, name, tuple(folder for folder in folders if folder))
        if not 0 <= self.minutes < float("inf"):
            raise ValueError(f"minutes is {self.minutes}; it must be 0 or more, such as 20")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")
        if not 1 <= self.batch <= 1024:
            raise ValueError(f"batch is {self.batch}; it must be from 1 to 1024")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0 and below 1, such as 0.004")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}, such as 0")
        if not 0 <= self.pixels_from <= 1:
            raise ValueError(f"pixels_from is {self.pixels_from}; it must be from 0 to 1, such as 0.5")
        for name, most in WEIGHED.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to {most}, such as 0.3")
        if self.distill is not None and not 0 <= self.distill <= 1:
            raise ValueError(f"distill is {self.distill}; it must be from 0 to 1, such as 0.5")
        if self.distill is not None and not (self.init or self.teacher):
            raise ValueError("distill needs teacher, an upsampler's folder, or init, to be taught to surpass itself")
        if not 0.5 <= self.contrast <= 2:
            raise ValueError(f"contrast is {self.contrast}; it must be from 0.5 to 2, such as 1")
        if self.size and self.size not in (*SIZES, ROUND_TRIP):
            raise ValueError(f"size is {self.size!r}; it must be one of {', '.join((*SIZES, ROUND_TRIP))}")
        if self.keep_doubling and not self.init:
            raise ValueError("keep_doubling needs init, the folder of the upsampler whose doubling is kept")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train, or only to calibrate."""
        return bool(self.steps or self.minutes)


def recall(out: Path) -> Training:
    """The training that `out` was made by. Raises ValueError if there is none to go on with."""
    try:
        kept = _written(out)["training"]
        return Training(**{field.name: kept[field.name] for field in fields(Training) if field.name in kept})
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"nothing to resume: {out} has no {SETTINGS} of a training ({type(error).__name__})"
        ) from error


def held_out_before(out: Path) -> list[str]:
    """The pictures that the training of `out` held out: new ones beside them must not change places."""
    return list(told(out).get("held_out_pictures") or ())


def told(out: Path) -> dict[str, Any]:
    """What training.json tells of the training of `out`, if anything."""
    with suppress(OSError, TypeError, ValueError):
        return dict(_written(out))
    return {}


def _written(out: Path) -> dict[str, Any]:
    """What training.json holds. Raises OSError or ValueError."""
    return json.loads((out / SETTINGS).read_text(encoding="utf-8"))


def resumed(kept: Training, given: dict[str, Any]) -> Training:
    """A training as it was but for what is given now. Raises ValueError for another network."""
    begun = {"size": kept.size or ("" if kept.init else "small"), "init": list(kept.init)}
    begun["keep_doubling"] = kept.keep_doubling
    for name, before in begun.items():
        if given.get(name, before) != before:
            how = f"with {before!r}" if before else "without it"
            raise ValueError(
                f"{name} is {given[name]!r}, but what is resumed was begun {how}; leave it out, or begin in another "
                "folder"
            )
    timed = {"steps": 0} if "minutes" in given else {}
    return replace(kept, **(timed | given))


def best_precision() -> str:
    """bf16 where it is the faster, which it is on few processors, else no.

    Several processes without a GPU take no: each would measure for itself, and all must take the same.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if os.environ.get("WORLD_SIZE", "1") == "1" and bfloat16_pays() else "no"
