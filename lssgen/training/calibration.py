"""The last touch on a trained upsampler: contrast and colours, by a last layer alone.

A network that answers with averages keeps colours but lacks fine detail, and the mean colours of what it decodes to are
off by a step or two of 255. Latents tell a patch's mean colour by three directions, nearly linearly; all else in them
is detail. So detail is multiplied by a number, and a constant is added for the colours: a linear map of the latents,
which the last convolution takes in without a cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lssgen.training import measures
from lssgen.training.pairs import HALVES, Crops
from lssgen.training.photos import Photos
from lssgen.training.recipe import Training
from lssgen.training.vaes import Vae
from lssgen.upsampler import Upsampler

CROPS = 192  # measured on: mean colours of a crop are off by 1 to 2 of 255, so those of 48 may be by 0.3 for all
FIRST, PROBED = 48, 12  # of them, for a first round of mending, and to learn how colours answer to a constant
LEAST = 0.3  # steps that colours must answer by to one asked for, or they are left as they are


@dataclass(frozen=True)
class Colours:
    """How latents tell colour, by least squares: deviations' units, `map` (3, C) to the mean colour of a patch.

    Args:
        mean, deviation: of the latents' channels, (C,).
        map: of latents without mean, over deviation, to colours in [-1, 1].
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    map: torch.Tensor

    @classmethod
    def of(cls, latents: torch.Tensor, pixels: torch.Tensor) -> Colours:
        """Of latents (B, C, h, w) and the pictures (B, 3, H, W) that they are of."""
        deviation, patches = latents.std((0, 2, 3)).clamp_min(1e-4), F.adaptive_avg_pool2d(pixels, latents.shape[-2:])
        inputs, colours = (x.movedim(1, -1).flatten(0, 2) for x in (latents, patches))
        mean = inputs.mean(0)
        inputs, colours = (inputs - mean) / deviation, colours - colours.mean(0)
        found = torch.linalg.lstsq(inputs.cpu().double(), colours.cpu().double())  # minds dead channels
        return cls(mean, deviation, found.solution.T.to(mean))

    def contrasted(self, contrast: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(C, C) and (C,) of the map that multiplies by `contrast` what is no colour, about the mean."""
        colour = torch.linalg.pinv(self.map) @ self.map
        rest = torch.eye(len(self.mean), device=colour.device) - colour
        matrix = torch.diag(self.deviation) @ (rest * (contrast - 1.0)) @ torch.diag(1.0 / self.deviation)
        return matrix + torch.eye(len(self.mean), device=colour.device), -matrix @ self.mean

    def directions(self) -> torch.Tensor:
        """(3, C): the smallest changes of latents that change red, green and blue by about a step of 255."""
        return (torch.linalg.pinv(self.map) * 2.0 / 255.0).T * self.deviation


def calibrate(
    model: Upsampler, vae: Vae, photos: Photos, device: torch.device, training: Training
) -> dict[str, dict[str, Any]]:
    """`mend` what was trained of `model`: what doubles, and what answers for the ratios between, or both together.

    Returns:
        What `mend` does, of each of `last_layers`.
    """
    halves_of = {"doubling": 1.0, "between": 0.0, "all": HALVES}
    trained = [name for name in model.last_layers if not (training.keep_doubling and name == "doubling")]
    return {
        name: mend(
            model, model.last_layers[name], vae,
            Crops(replace(photos), training.seed, vae.multiple, halves=halves_of[name], plain=0.0), device,
            training.contrast,
        )
        for name in trained
    }  # fmt: skip


@torch.no_grad()
@measures.exact()
def mend(
    model: Upsampler, last: nn.Conv2d, vae: Vae, crops: Crops, device: torch.device, contrast: float
) -> dict[str, Any]:
    """Multiply the detail of what `model` gives by `contrast`, then mend its mean colours, in place.

    Args:
        model: float32, on `device`.
        last: its convolution that answers for the ratios of `crops`.
        vae: its autoencoder.
        crops: cuts pictures and the same smaller, to measure the colours on.
        contrast: above 0; 1 leaves detail as it is.

    Returns:
        `energy_ratio` and `colour_shift` in 1/255 (see `measures`) on the crops, afterwards.

    Raises:
        ValueError: if what it gives is not finite.
    """
    pairs = [[pixels[None].to(device) for pixels in crops()] for _ in range(CROPS)]
    latents = torch.cat([vae.encode(whole) for whole, _ in pairs])
    colours, size = Colours.of(latents, torch.cat([whole for whole, _ in pairs])), latents.shape[-2:]
    low = [vae.encode(small) for _, small in pairs]
    if contrast != 1.0:
        apply(last, *colours.contrasted(contrast))
    bias = last.bias

    def shown(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of the first so many crops the picture made and the true one, (1, 3, H, W) in [0, 1]."""
        for z, (whole, _) in zip(low[:count], pairs, strict=False):
            yield vae.decode(model(z, size)).clamp(-1.0, 1.0) * 0.5 + 0.5, whole * 0.5 + 0.5

    def shift(count: int) -> torch.Tensor:
        """Mean colour shift over them, (3,) in 1/255."""
        return torch.cat([measures.colour_shift(made, true) for made, true in shown(count)]).mean(0)

    directions, before, response = colours.directions(), shift(PROBED), []
    if not before.isfinite().all():
        raise ValueError("what the upsampler answers is not finite; train anew with a lower --learning-rate")
    for direction in directions:
        bias += direction
        response.append(shift(PROBED) - before)
        bias -= direction
    inverse = torch.linalg.pinv(torch.stack(response, 1), atol=LEAST)
    for count in (FIRST, CROPS):
        bias -= (inverse @ shift(count)) @ directions
    shifts, energies = [], []
    for (made, true), (_, small) in zip(shown(CROPS), pairs, strict=True):
        shifts.append(measures.colour_shift(made, true))
        energies.append(measures.energy_ratio(made, true, true.shape[-1] / small.shape[-1]).item())
    left, energy = torch.cat(shifts).mean(0), fmean(energies)
    return {"energy_ratio": round(energy, 3), "colour_shift": [round(value, 2) for value in left.tolist()]}


def apply(last: nn.Conv2d, matrix: torch.Tensor, offset: torch.Tensor) -> None:
    """Take a map of latents, (C, C) and (C,), into the convolution that gives them."""
    last.weight.copy_(torch.einsum("ij,jkyx->ikyx", matrix, last.weight))
    last.bias.copy_(matrix @ last.bias + offset)
