"""The networks to train: new ones of a size, means of former ones, small ones grown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lssgen.training import round_trip
from lssgen.training.eval_upsampler import checkpoint
from lssgen.training.vaes import Vae
from lssgen.upsampler import LatentUpsampler, RoundTripUpsampler, Upsampler, blank_upsampler

if TYPE_CHECKING:
    from lssgen.training.recipe import Training

SIZES = {  # name: widths for so many latent channels. All blocks but the last two work at the small size
    "small": lambda channels: (58 if channels >= 16 else 30,) * 8,  # 525,670 parameters double 16, 138,574 double 4
    "large": lambda channels: (96,) * 8,  # 1.4 M double
}
ROUND_TRIP = "round-trip"  # see `lssgen.training.round_trip`
BETWEEN = 4  # blocks for other sizes than the double, after their sketch


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


def model_for(training: Training, vae: Vae, resumed: Path | None) -> Upsampler:
    """The upsampler to train: a new one, one to start from, or one of the kind that is being trained in `resumed`.

    Raises:
        ValueError: if what is to be started from or resumed is not there, or is for another latent space, or has new
            layers and nothing is to be trained.
    """
    if resumed is not None:
        return _resumed(resumed, vae)
    if not training.init:
        new = training.size or "small"
        if new != ROUND_TRIP and not training.trains:
            raise ValueError(f"a new {new} upsampler wants training: give --minutes above 0, or an --init to calibrate")
        return round_trip.begin(vae) if new == ROUND_TRIP else build(new, vae.channels, vae.name)
    return _from(mean_of(training.init, vae), training, vae)


def _from(begun: Upsampler, training: Training, vae: Vae) -> Upsampler:
    """Started from `begun`."""
    settings = {**_plain(begun), "vae": vae.name}  # and not where it came from
    if isinstance(begun, RoundTripUpsampler):
        if training.size not in ("", ROUND_TRIP) or training.keep_doubling:
            raise ValueError(
                "what --init names is a round trip, with the same layers for all ratios; leave out --size "
                "and --keep-doubling"
            )
        model = RoundTripUpsampler.from_config(settings)
        model.load_state_dict(begun.state_dict())
        return model
    if training.size == ROUND_TRIP:
        raise ValueError("what --init names is no round trip and cannot become one; leave --init out, or --size")
    if not (begun.any_ratio or training.trains):
        raise ValueError("what --init names only doubles; other ratios want training, so give --minutes above 0")
    if training.size:
        return grown(begun, build(training.size, vae.channels, vae.name))
    settings["between_channels"] = begun.config.between_channels or _between(begun.config.block_out_channels)
    return grown(begun, LatentUpsampler.from_config(settings))


def _resumed(resumed: Path, vae: Vae) -> Upsampler:
    """Of the kind that is being trained in `resumed`."""
    try:
        model = blank_upsampler(resumed)
    except (OSError, TypeError) as error:
        raise ValueError(f"nothing to resume: {resumed} has no config.json of an upsampler") from error
    if model.config.in_channels != vae.channels:
        raise ValueError(f"{resumed} is for {model.config.in_channels} latent channels; this VAE has {vae.channels}")
    if model.config.vae != vae.name:
        raise ValueError(f"{resumed} is for the latents of {model.config.vae!r}; these are of {vae.name!r}")
    return model


@torch.no_grad()
def mean_of(folders: Sequence[str], vae: Vae) -> Upsampler:
    """The upsampler of a folder, or of several that of their mean weights (Wortsman et al. 2022, "Model soups"), which
    often errs less than each of them where they were trained on from the same one.

    Raises:
        ValueError: if one cannot be read, or is for another latent space than `vae`'s, or they differ in kind or size.
    """
    models = [checkpoint(Path(folder).expanduser(), vae) for folder in folders]
    kinds = [_plain(m) | {"vae": m.config.vae or vae.name, "class": type(m)} for m in models]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(f"the upsamplers at {folders[0]} and {folder} differ in kind or size; name one of them")
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


def _plain(model: Upsampler) -> dict[str, Any]:
    """Its configuration; lists, which come from a file, as tuples."""
    own = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}


def _take(new: nn.Module, old: nn.Module) -> None:
    """Let the first outputs of a convolution be those of `old`, from its inputs alone."""
    into, weights = (conv.weight.transpose(0, 1) if conv.transposed else conv.weight for conv in (new, old))
    into[: old.out_channels] = 0.0
    into[: old.out_channels, : old.in_channels] = weights
    new.bias[: old.out_channels] = old.bias
