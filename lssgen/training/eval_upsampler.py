"""Measure upsamplers by the pictures their latents decode to, beside bicubic, nearest and the pixel round trip.

Protocol: the left upper square of each picture, at most 512 px; its copy made smaller by antialiased bicubic; both
encoded; the small one's latents enlarged and decoded in float32, and compared with the true picture. `encode-decode` is
what the autoencoder itself loses: the ceiling, but for what a method adds of its own. `enlarged` is the small picture
decoded and enlarged by bicubic: no stage can go on from it, but it shows how much small latents tell. Pictures of one
colour, which photographs lack, are measured besides: an upsampler can turn white paper grey and lose nothing in the
averages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from lssgen.latents import resize
from lssgen.training import RATIOS, measures, photos
from lssgen.training.vaes import Vae
from lssgen.upsampler import Upsampler, load_upsampler

SIDE = 512  # pixels of the square measured on
MOST = 16.0  # of the ratios
PLAIN_SIDE = 24  # of a plain picture, in units of the autoencoder's
COLOURS = [*product((-1.0, 1.0), repeat=3), (0.0, 0.0, 0.0)]  # black, white, the six pure colours, grey
TRUE, CEILING, ENLARGED = "true", "encode-decode", "enlarged"
PLAIN = (ENLARGED, "bicubic", "nearest", "pixel")  # methods without weights
Upsample = Callable[[torch.Tensor, int, int], torch.Tensor]
Show = Callable[[Path, float, str, torch.Tensor, float | None], None]


@dataclass(frozen=True)
class Row:
    """One method at one ratio, means over pictures.

    Args:
        method: a checkpoint's path, `encode-decode`, or one of PLAIN.
        ratio: of the two sizes.
        psnr: in dB; `psnr_each` is that of each picture, to tell a difference from chance.
        spectrum_error, carried_error: root mean square difference in dB over all frequencies, and over those that the
            small picture can carry; beyond them noise of the right strength comes near.
        ssim: 1 is equal.
        energy_ratio: in the top octave that the small picture can carry; 1 is as much as the true picture has, right or
            made up.
        correlation: with the true picture in that octave; 1 is the right detail, weak or strong, 0 is made up.
        colour_shift: of red, green and blue in 1/255.
        plain_shift: the largest of any of the three in pictures of one of COLOURS, in 1/255.
        latents_error: mean difference from the true picture's latents, in units of their channels' deviations; far off
            is what only this autoencoder's decoder takes for the picture. 0 of what enlarges no latents.
        parameters: of the upsampler.
        milliseconds: of one call, the median; of the pixel round trip, its decoding and encoding. 0 likewise.
    """

    method: str
    ratio: float
    psnr: float
    ssim: float
    spectrum_error: float
    carried_error: float
    energy_ratio: float
    correlation: float
    colour_shift: tuple[float, float, float]
    plain_shift: float
    latents_error: float
    parameters: int
    milliseconds: float
    psnr_each: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def checkpoint(folder: Path, vae: Vae) -> Upsampler:
    """An upsampler's folder, ours or of the published layout.

    Raises:
        ValueError: if it cannot be read, or is for another latent space than `vae`'s.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"no upsampler at {folder} (it has no config.json); name an upsampler's folder")
    model = load_upsampler(folder)
    channels, its = model.config.in_channels, model.config.get("vae")
    if channels != vae.channels:
        raise ValueError(f"the upsampler at {folder} is for {channels} latent channels; this VAE has {vae.channels}")
    if its and vae.name and its != vae.name:
        raise ValueError(f"the upsampler at {folder} is for the latents of {its!r}; these are of {vae.name!r}")
    return model


@measures.exact()
def evaluate(
    vae: Vae,
    paths: Iterable[Path],
    learned: dict[str, Upsampler],
    ratios: Iterable[float] = RATIOS,
    *,
    device: torch.device | None = None,
    side: int = SIDE,
    plain: tuple[str, ...] = PLAIN,
    progress: Callable[[str], None] = lambda text: None,
    show: Show = lambda *shown: None,
) -> list[Row]:
    """Every method at every ratio.

    Args:
        vae: the autoencoder.
        paths: of the pictures.
        learned: upsamplers by name.
        ratios: of the sizes; the smaller one is brought to the nearest size that the autoencoder takes.
        device: where the autoencoder is; the CPU by default.
        side: pixels of the square measured on, at most.
        plain: some of PLAIN.
        progress: told after each picture.
        show: given every picture: its path, ratio, method or `true`, (1, 3, H, W) in [0, 1], and PSNR or None.

    Raises:
        ValueError: if there is no picture, or one is unreadable or too small, or a ratio cannot be measured.
    """
    ratios, paths = tuple(ratios), list(paths)
    if not ratios or not all(1 < ratio <= MOST for ratio in ratios):
        raise ValueError(f"the ratios are {list(ratios)}; each must be above 1 and at most {MOST:g}, such as 2")
    if not paths:
        raise ValueError("no picture is left to measure on; lower --every, or name another folder")
    device = device or torch.device("cpu")
    methods: dict[str, Upsample] = {name: _plain(vae, name) for name in plain if name != ENLARGED}
    methods |= {name: model.to(device).upsample for name, model in learned.items()}
    found: dict[tuple[str, float], list[list[float]]] = {}
    for number, path in enumerate(paths):
        true = _square(path, side, vae).to(device)
        latents = vae.encode(true)
        size, ceiling = tuple(latents.shape[-2:]), _decoded(vae, latents)
        for ratio in ratios:
            small = _smaller(true.shape[-1], ratio, vae.multiple)
            low = vae.encode(photos.shrink(true, small, small))
            show(path, ratio, TRUE, true * 0.5 + 0.5, None)
            made = {CEILING: (ceiling, 0.0, 0.0)}
            if ENLARGED in plain:
                made[ENLARGED] = resize(_decoded(vae, low), *true.shape[-2:], "bicubic").clamp(0.0, 1.0), 0.0, 0.0
            for name, upsample in methods.items():
                if number == 0 and device.type != "cpu":  # once untimed: a GPU's first call sets up its kernels
                    _timed(upsample, low, size, device)
                enlarged, milliseconds = _timed(upsample, low, size, device)
                made[name] = _decoded(vae, enlarged), measures.latents_error(enlarged, latents), milliseconds
            for name, (decoded, error, milliseconds) in made.items():
                values = _values(decoded, true, true.shape[-1] / small)
                found.setdefault((name, ratio), []).append([*values, error, milliseconds])
                show(path, ratio, name, decoded, values[0])
        progress(f"{number + 1} of {len(paths)} pictures")
    plain_shift = cache(partial(_plain_shift, vae, device))
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in learned.items()}
    return [
        _row(name, ratio, rows, plain_shift(methods.get(name), ratio if name in methods else 1.0), counts.get(name, 0))
        for (name, ratio), rows in found.items()
    ]


def _square(path: Path, side: int, vae: Vae) -> torch.Tensor:
    """The left upper square of a picture, (1, 3, side, side) in [-1, 1], smaller where the picture is."""
    try:
        image = photos.read(path)
    except photos.BROKEN as error:
        raise ValueError(f"{path} is no readable picture ({type(error).__name__})") from error
    least = 4 * vae.multiple  # so that half and a quarter of it can be encoded
    side = min(side, *image.size) // least * least
    if side < least:
        raise ValueError(f"{path} is {image.size[0]} x {image.size[1]} px; {least} px a side are needed")
    return photos.pixels_of(image.crop((0, 0, side, side)))[None]


def _smaller(side: int, ratio: float, multiple: int) -> int:
    """The side, `ratio` times smaller, that the autoencoder takes. Raises ValueError if it is none or the same."""
    small = round(side / ratio / multiple) * multiple
    if not 0 < small < side:
        raise ValueError(f"the ratio {ratio:g} makes {small} px of {side}; {side / (side - multiple):.3g} is the least")
    return small


def _plain(vae: Vae, name: str) -> Upsample:
    """An upsampler without weights."""

    def pixel(z: torch.Tensor, height: int, width: int) -> torch.Tensor:
        picture = vae.decode(z).clamp(-1.0, 1.0)
        return vae.encode(resize(picture, height * vae.factor, width * vae.factor, "bicubic").clamp(-1.0, 1.0))

    if name == "pixel":
        return pixel
    return lambda z, height, width: resize(z, height, width, name)


@torch.no_grad()
def _timed(
    upsample: Upsample, low: torch.Tensor, size: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, float]:
    """The enlarged latents, and the milliseconds that took."""
    _wait(device)
    start = time.perf_counter()
    latents = upsample(low, *size)
    _wait(device)
    return latents, (time.perf_counter() - start) * 1000


@torch.no_grad()
def _decoded(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    """A picture in [0, 1]."""
    return vae.decode(latents).clamp(-1.0, 1.0) * 0.5 + 0.5


def _values(made: torch.Tensor, true: torch.Tensor, ratio: float) -> list[float]:
    """A Row's fields from psnr to colour_shift, of one picture in [0, 1]; the true one is in [-1, 1]."""
    true = true * 0.5 + 0.5
    values = [measures.psnr(made, true), measures.ssim(made, true)]
    values += [measures.spectrum_error(made, true), measures.spectrum_error(made, true, ratio)]
    values += [measures.energy_ratio(made, true, ratio), measures.correlation(made, true, ratio)]
    values += measures.colour_shift(made, true)[0]
    return [float(value) for value in values]


@torch.no_grad()
def _plain_shift(vae: Vae, device: torch.device, upsample: Upsample | None, ratio: float) -> float:
    """As a Row has it, of squares of PLAIN_SIDE multiples that the autoencoder takes, made smaller to the nearest such;
    without `upsample` of the autoencoder."""
    large = PLAIN_SIDE * vae.multiple
    small = min(max(round(PLAIN_SIDE / ratio), 1), PLAIN_SIDE - 1) * vae.multiple if upsample else large
    shifts = []
    for colour in torch.tensor(COLOURS, device=device).view(-1, 1, 3, 1, 1):  # one by one: some are large
        latents = vae.encode(colour.expand(-1, -1, small, small))
        if upsample:
            latents = upsample(latents, large // vae.factor, large // vae.factor)
        shifts.append(measures.colour_shift(_decoded(vae, latents), colour * 0.5 + 0.5).abs().max())
    return float(max(shifts))


def _wait(device: torch.device) -> None:
    """Until all work queued on the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _row(name: str, ratio: float, rows: list[list[float]], plain: float, parameters: int) -> Row:
    *values, red, green, blue, error = (fmean(column) for column in list(zip(*rows, strict=True))[:-1])
    milliseconds = median(row[-1] for row in rows)
    each = tuple(row[0] for row in rows)
    return Row(name, ratio, *values, (red, green, blue), plain, error, parameters, milliseconds, each)


def table(rows: Iterable[Row]) -> str:
    """The rows as text, a line each."""
    head = f"{'ratio':>5} {'PSNR':>6} {'SSIM':>6} {'spectrum':>8} {'carried':>7} {'energy':>6} {'corr':>5}"
    lines = [f"{head} {'colour shift':>20} {'plain':>5} {'latents':>7} {'parameters':>10} {'ms':>7}  method"]
    for row in sorted(rows, key=lambda row: row.ratio):
        shift = " ".join(f"{value:+6.2f}" for value in row.colour_shift)
        lines.append(
            f"{row.ratio:>5g} {row.psnr:>6.2f} {row.ssim:>6.3f} {row.spectrum_error:>8.2f} {row.carried_error:>7.2f} "
            f"{row.energy_ratio:>6.2f} {row.correlation:>5.2f} {shift:>20} {row.plain_shift:>5.1f} "
            f"{row.latents_error:>7.3f} {row.parameters:>10,} {row.milliseconds:>7.1f}  {row.method}"
        )
    return "\n".join(lines)
