"""What the training of an upsampler is asked for, and the networks to choose from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lssgen.training.eval_upsampler import checkpoint
from lssgen.training.precision import bfloat16_pays
from lssgen.training.vaes import Vae
from lssgen.upsampler import LatentUpsampler

SETTINGS = "training.json"
PRECISIONS = ("no", "bf16", "fp16")
SIZES = {  # name: widths for so many latent channels. All blocks but the last two work at the small size
    "small": lambda channels: (58 if channels >= 16 else 30,) * 8,  # 525,670 parameters double 16, 138,574 double 4
    "large": lambda channels: (96,) * 8,  # 1.4 M double
}
BETWEEN = 4  # blocks for other sizes than the double, after their sketch


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, and how; written to OUT/training.json.

    Args:
        vae: an autoencoder's or a pipeline's folder or hub id.
        images: folder of pictures.
        tiny: `vae` is a pair of TAESD's files, see `lssgen.training.tiny`.
        key: name of the latent space, stored in the upsampler's configuration; that of a known model by default.
        minutes: of training in all, the first encoding and what came before resuming included; the learning rate
            follows it.
        steps: of training in all in place of `minutes`; 0 for none.
        batch: crops in a step of each process.
        learning_rate: of the matrices, by Muon.
        seed: of weights and crops.
        size: one of SIZES; where it is left out the size of `init`, or small.
        init: folders of LatentUpsamplers to start from the mean of, most often of one; a smaller size is grown, see
            `grown`.
        keep_doubling: train only what answers for other ratios than 2, and leave the rest as `init` has it, in the
            float16 that all is stored in.
        precision: one of PRECISIONS.
        pixels_from: share of the training after which latents are decoded for the losses of pixels; 1 for never.
        latents: weight of the latents' own error where pixels count, too. With little of it latents become such as only
            that decoder takes for the picture.
        energy, texture: weights of the losses of energy, in the top octave that the small picture carries and in the
            large picture's finest octave: more is sharper, 0 the best PSNR.
        distill: learn what `lssgen.training.teacher` makes of `init`, to this share as sharp as true pictures, in place
            of true pictures.
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
    learning_rate: float = 4e-3
    seed: int = 0
    size: str = ""
    init: str | Sequence[str] = ()
    keep_doubling: bool = False
    precision: str = "no"
    pixels_from: float = 0.5
    latents: float = 0.1
    energy: float = 0.3
    texture: float = 0.0
    distill: float | None = None
    contrast: float = 1.0

    def __post_init__(self) -> None:
        folders = [self.init] if isinstance(self.init, str) else self.init
        object.__setattr__(self, "init", tuple(folder for folder in folders if folder))
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes is {self.minutes}; it must be above 0, such as 20")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")
        if not 1 <= self.batch <= 1024:
            raise ValueError(f"batch is {self.batch}; it must be from 1 to 1024")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0 and below 1, such as 0.004")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}, such as 0")
        if not 0 <= self.pixels_from <= 1:
            raise ValueError(f"pixels_from is {self.pixels_from}; it must be from 0 to 1, such as 0.5")
        for name in ("latents", "energy", "texture"):
            if not 0 <= getattr(self, name) <= 10:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 10, such as 0.3")
        if self.distill is not None and not 0 <= self.distill <= 1:
            raise ValueError(f"distill is {self.distill}; it must be from 0 to 1, such as 0.5")
        if self.distill is not None and not self.init:
            raise ValueError("distill needs init, the folder of the upsampler that is taught to surpass itself")
        if not 0.5 <= self.contrast <= 2:
            raise ValueError(f"contrast is {self.contrast}; it must be from 0.5 to 2, such as 1")
        if self.size and self.size not in SIZES:
            raise ValueError(f"size is {self.size!r}; it must be one of {', '.join(SIZES)}")
        if self.keep_doubling and not self.init:
            raise ValueError("keep_doubling needs init, the folder of the upsampler whose doubling is kept")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")


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


def build(size: str, channels: int, name: str, *, any_ratio: bool = True) -> LatentUpsampler:
    """A new upsampler of one of SIZES for the latent space called `name`.

    Most of its blocks come before the doubling, where they cost a quarter and see twice as far, and it has no norms:
    contrast is not lost, and an output depends on its neighbourhood alone.
    """
    widths = SIZES[size](channels)
    up = tuple(k == len(widths) - 2 for k in range(len(widths)))
    strides = tuple(2 if here else 1 for here in up)
    between = _between(widths) if any_ratio else ()
    return LatentUpsampler(
        channels, channels, widths, strides, up, norm_num_groups=0, vae=name, between_channels=between
    )


def _between(widths: Sequence[int]) -> tuple[int, ...]:
    """Widths of the blocks for other sizes than the double, where those of the others are `widths`."""
    return (min(widths),) * BETWEEN


def model_for(training: Training, vae: Vae, resumed: Path | None) -> LatentUpsampler:
    """The upsampler to train: a new one, one to start from, or one of the kind that is being trained in `resumed`.

    Raises:
        ValueError: if what is to be started from or resumed is not there, or is for another latent space.
    """
    if resumed is None and not training.init:
        return build(training.size or "small", vae.channels, vae.name)
    if resumed is None:
        begun = mean_of(training.init, vae)
        if training.size:
            return grown(begun, build(training.size, vae.channels, vae.name))
        settings = {name: value for name, value in begun.config.items() if not name.startswith("_")}
        settings["vae"] = vae.name  # and not where it came from
        settings["between_channels"] = begun.config.between_channels or _between(begun.config.block_out_channels)
        return grown(begun, LatentUpsampler.from_config(settings))
    try:
        model = LatentUpsampler.from_config(LatentUpsampler.load_config(resumed, local_files_only=True))
    except (OSError, TypeError) as error:
        raise ValueError(f"nothing to resume: {resumed} has no config.json of an upsampler") from error
    if model.config.in_channels != vae.channels:
        raise ValueError(f"{resumed} is for {model.config.in_channels} latent channels; this VAE has {vae.channels}")
    if model.config.vae != vae.name:
        raise ValueError(f"{resumed} is for the latents of {model.config.vae!r}; these are of {vae.name!r}")
    return model


@torch.no_grad()
def mean_of(folders: Sequence[str], vae: Vae) -> LatentUpsampler:
    """The upsampler of a folder, or of several that of their mean weights (Wortsman et al. 2022, "Model soups"), which
    often errs less than each of them where they were trained on from the same one.

    Raises:
        ValueError: if one cannot be read, or is for another latent space than `vae`'s, or they differ in kind or size.
    """
    models = [checkpoint(Path(folder).expanduser(), vae) for folder in folders]
    kinds = [_plain(model) | {"vae": model.config.vae or vae.name} for model in models]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(f"the upsamplers at {folders[0]} and {folder} differ in kind or size; --init one of them")
    weights = [model.state_dict() for model in models]
    models[0].load_state_dict({k: torch.stack([w[k] for w in weights]).mean(0) for k in weights[0]})
    return models[0]


@torch.no_grad()
def grown(begun: LatentUpsampler, model: LatentUpsampler) -> LatentUpsampler:
    """`model`, which may be wider and of `any_ratio`, with the weights of `begun`, so that it answers as that does
    wherever that does.

    Channels that `begun` lacks keep `model`'s own weights, but the outputs that `begun` has read them with weight 0, so
    that they begin to count as they are trained.

    Raises:
        ValueError: if `begun` is wider than `model`, or of another kind: norms, interpolation, place of the doubling,
            blocks for other sizes.
    """
    if not _fits(begun, model):
        now, wanted = (
            f"{list(upsampler.config.block_out_channels)} and {list(upsampler.config.between_channels)}"
            for upsampler in (begun, model)
        )
        raise ValueError(f"an upsampler with blocks of {now} channels cannot be grown to {wanted}; leave --size out")
    theirs = dict(begun.named_modules())
    for name, new in model.named_modules():
        if isinstance(new, (nn.Conv2d, nn.ConvTranspose2d)) and name in theirs:
            _take(new, theirs[name])
        elif isinstance(new, nn.GroupNorm) and name in theirs:
            new.load_state_dict(theirs[name].state_dict())
    return model


def _fits(begun: LatentUpsampler, model: LatentUpsampler) -> bool:
    """Whether `begun` is `model` but for fewer channels, or that part of it that doubles."""
    kinds, widths = ["is_up_samples", "norm_num_groups", "interpolate"], ["block_out_channels"]
    if begun.any_ratio:
        kinds, widths = [*kinds, "sketch_channels"], [*widths, "between_channels"]
    now, wanted = _plain(begun), _plain(model)
    return all(now[name] == wanted[name] for name in kinds) and all(
        now[name] == wanted[name]
        or (len(now[name]) == len(wanted[name]) and len(set(now[name])) == 1 and now[name][0] <= min(wanted[name]))
        for name in widths
    )


def _plain(model: LatentUpsampler) -> dict[str, Any]:
    """Its configuration; lists, which come from a file, as tuples."""
    own = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}


def _take(new: nn.Module, old: nn.Module) -> None:
    """Let the first outputs of a convolution be those of `old`, from its inputs alone."""
    into, weights = (conv.weight.transpose(0, 1) if conv.transposed else conv.weight for conv in (new, old))
    into[: old.out_channels] = 0.0
    into[: old.out_channels, : old.in_channels] = weights
    new.bias[: old.out_channels] = old.bias


def best_precision() -> str:
    """bf16 where it is the faster, which it is on few processors, else no.

    Several processes without a GPU take no: each would measure for itself, and all must take the same.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if os.environ.get("WORLD_SIZE", "1") == "1" and bfloat16_pays() else "no"
