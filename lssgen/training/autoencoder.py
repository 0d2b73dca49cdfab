"""Train the autoencoder (AutoencoderKL, f16, 16 channels) on emoji over white and random colours.

    python -m lssgen.training.autoencoder --data DIR --work DIR [--minutes 27] [--resume] [--init assets/embedded]

Loss: L1 + MSE + gradients at three scales on pixels; batch statistics of each latent channel held near mean 0 and
variance 1. Latents get noise before decoding, so that the decoder bears a sampler's small errors, and on a third of
the steps are averaged 2x2 first: their decode must be the picture at half the size (scale equivariance), which
makes them easy to generate and to upsample. Writes WORK/autoencoder.{safetensors,pt}.
"""

import random
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lssgen.training import data as D
from lssgen.training.common import Loop, parser, prepare
from lssgen.training.optimiser import MuonAdam, parameter_groups
from lssgen.training.precision import autocast

LEARNING_RATE = 4e-3
CHECKPOINT = "autoencoder"


def build() -> AutoencoderKL:
    """A fresh autoencoder; latents already scaled (statistics are folded in at the export)."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        sample_size=512,
    )


@dataclass(frozen=True)
class View:
    """A kind of batch: source raster size, crop (equal: whole picture), size it is shown at, pictures, weight."""

    source: int
    crop: int
    size: int
    count: int
    weight: float


VIEWS = (
    View(256, 128, 128, 16, 0.16),
    View(512, 128, 128, 16, 0.16),
    View(256, 256, 256, 4, 0.26),
    View(256, 256, 128, 16, 0.10),
    View(512, 256, 256, 4, 0.12),
    View(512, 512, 512, 1, 0.12),
    View(1024, 256, 256, 4, 0.08),
)


class Batches:
    """Random batches (B, 3, h, w) in [-1, 1] from the raster caches, without the held-out labels."""

    def __init__(self, data: Path, work: Path, seed: int):
        self.rng = random.Random(seed)
        every = D.read_captions(data)
        held_out = D.held_out_labels(every)
        pictures = [p for p in every if p.label not in held_out]
        big = [p for p in pictures if p.size > 256]
        huge = random.Random(1).sample(big, min(200, len(big)))
        sizes = {v.source for v in VIEWS}
        chosen = {256: pictures, 512: big, 1024: huge}
        self.rasters = {s: D.rasters(data, work, chosen[s], s, f"seen_{s}") for s in sizes if chosen[s]}

    def draw(self) -> torch.Tensor:
        """One batch of a random view."""
        views = [v for v in VIEWS if v.source in self.rasters]
        view = self.rng.choices(views, [v.weight for v in views])[0]
        return torch.stack([self._one(view) for _ in range(view.count)])

    def _one(self, view: View) -> torch.Tensor:
        stack = self.rasters[view.source]
        room = view.source - view.crop
        for _ in range(3):
            rgba = stack[self.rng.randrange(len(stack))]
            y, x = (self.rng.randint(0, room), self.rng.randint(0, room)) if room else (0, 0)
            rgba = rgba[y : y + view.crop, x : x + view.crop]
            if rgba[::8, ::8, 3].any():
                break
        if self.rng.random() < 0.5:
            rgba = np.flip(rgba, 1)
        picture = D.composite(rgba, D.random_background(self.rng))
        return F.avg_pool2d(picture, view.crop // view.size) if view.crop != view.size else picture


def gradient_loss(x: torch.Tensor, y: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """L1 between horizontal and vertical differences, at halved sizes."""
    total = x.new_zeros(())
    d = x - y
    for k in range(scales):
        if k:
            d = F.avg_pool2d(d, 2)
        total = total + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return total


def pixel_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 + MSE + gradients."""
    return F.l1_loss(x, y) + 2 * F.mse_loss(x, y) + gradient_loss(x, y)


def loss_of(vae: AutoencoderKL, x: torch.Tensor, noise: float, halve: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, MSE of the pixels in [-1, 1]) of one batch."""
    with autocast():
        z = vae.encode(x).latent_dist.mean.float()
    mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
    prior = mean.square().mean() + (var + 1e-4).log().square().mean()
    if halve:
        z, x = F.avg_pool2d(z, 2), F.avg_pool2d(x, 2)
    z = z + noise * torch.randn_like(z)
    with autocast():
        y = vae.decode(z).sample
    y = y.float()
    return pixel_loss(y, x) + 0.003 * prior, F.mse_loss(y, x)


def psnr(mse: float) -> float:
    """dB, for values in [-1, 1]."""
    return float(10 * np.log10(4 / max(mse, 1e-9)))


def train(args) -> None:
    """The loop."""
    prepare(args)
    vae = AutoencoderKL.from_pretrained(args.init / "vae") if args.init else build()
    vae.train().to(memory_format=torch.channels_last)
    optimiser = MuonAdam(parameter_groups(vae), LEARNING_RATE)
    loop, seen = Loop(args, CHECKPOINT, vae, optimiser, LEARNING_RATE, decay=0.998, floor=0.005), []
    batches = Batches(args.data, args.work, loop.seed)
    for _ in loop:
        x = batches.draw().contiguous(memory_format=torch.channels_last)
        loss, mse = loss_of(vae, x, noise=0.2 * loop.rng.random(), halve=loop.rng.random() < 0.33)
        loop.update(loss)
        seen.append((loss.item(), mse.item()))
        loop.report(lambda: f"loss {np.mean(seen[-100:], 0)[0]:.4f} psnr {psnr(np.mean(seen[-100:], 0)[1]):.2f}")


def arguments(argv: list[str] | None = None) -> Namespace:
    """The command line."""
    return parser(__doc__, 27).parse_args(argv)


if __name__ == "__main__":
    train(arguments())
