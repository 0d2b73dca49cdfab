"""Train the x2 latent upsampler in this autoencoder's scaled latents.

    python -m lssgen.training.upsampler --data DIR --work DIR [--minutes 5] [--resume] [--init DIR] [--out DIR]

Pairs are encodings of one picture at two sizes, 256 -> 512 px mostly and 512 -> 1024. Loss: MSE of the latents plus
L1 of a decoded crop; some noise on the input, since sampled latents are not encodings. At the end it prints the PSNR
of decoded pictures against bicubic latents, writes WORK/upsampler.{safetensors,pt}, with --out the model folder, and
WORK/latents_1024u.npy: all 512 px latents doubled, the transformer's targets where no true 1024 px encoding exists.
"""

import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lssgen.training import data as D
from lssgen.training import latents, networks
from lssgen.training import scenes as S
from lssgen.training.autoencoder import psnr
from lssgen.training.common import Loop, load_average, parser, prepare
from lssgen.training.optimiser import MuonAdam, parameter_groups
from lssgen.training.precision import autocast
from lssgen.upsampler import LatentUpsampler

LEARNING_RATE = 4e-3
HELD_OUT = 8  # pictures of each pair of sizes kept to measure on
CROP = 8  # latent pixels of a decoded crop
CHECKPOINT = "upsampler"


def build() -> LatentUpsampler:
    """The recipe's small network for doubling alone, 525,670 parameters.

    Without norms: they tied a flat colour to the rest of the picture, and doubled latents of coloured backgrounds came
    out 1.2 to 1.4 times too strong, with a grid.
    """
    return networks.build("small", 16, "embedded", any_ratio=False)


def scaled_vae(work: Path, init: Path | None) -> AutoencoderKL:
    """The frozen autoencoder on scaled latents."""
    from lssgen.training.export import autoencoder_of

    vae = latents.load_vae(work, init) if init else autoencoder_of(work).eval()
    return vae.requires_grad_(False)


class Pairs:
    """(latents at one size, latents of the same pictures at twice the size)."""

    def __init__(self, data: Path, work: Path, seed: int):
        self.rng = random.Random(seed)
        (a, listed), (b, _), (c, large) = (latents.load(work, size) for size in (256, 512, 1024))
        where = {e: k for k, e in enumerate(listed)}
        both = [e for e in large if e in where]
        n = min(len(a), len(b))
        mid, top = [where[e] for e in both], [k for k, e in enumerate(large) if e in where]
        self.kinds = {256: (a[:n], b[:n]), 512: (b[mid], c[top])}
        self.rows = {256: self._seen(data, listed[:n]), 512: self._seen(data, both)}

    @staticmethod
    def _seen(data: Path, examples: list[S.Example]) -> list[int]:
        """Rows to train on: not the first ones, which are measured on, nor any that shows a held-out label."""
        pictures = D.read_captions(data)
        held_out = D.held_out_labels(pictures)
        shown = [{pictures[i].label for i in e.objects} for e in examples]
        return [k for k, labels in enumerate(shown) if k >= HELD_OUT and not labels & held_out]

    def __call__(self, size: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A random batch, without the held-out pictures."""
        low, high = self.kinds[size]
        rows = self.rng.choices(self.rows[size], k=count)
        return tuple(torch.from_numpy(s[rows].astype(np.float32)) for s in (low, high))

    def held_out(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures to measure on."""
        return tuple(torch.from_numpy(s[:HELD_OUT].astype(np.float32)) for s in self.kinds[size])


def loss_of(model: LatentUpsampler, vae: AutoencoderKL, low: torch.Tensor, high: torch.Tensor, y: int, x: int):
    """MSE of latents + L1 of a crop's pixels; low and high (B, C, h, w), (B, C, 2h, 2w)."""
    with autocast():
        up = model(low + 0.1 * torch.rand(len(low), 1, 1, 1) * torch.randn_like(low)).float()
        cut = (slice(0, 8), slice(None), slice(y, y + CROP), slice(x, x + CROP))
        with torch.no_grad():
            true = vae.decode(high[cut]).sample.float()
        pixels = F.l1_loss(vae.decode(up[cut]).sample.float(), true)
    return F.mse_loss(up, high), pixels


@torch.no_grad()
def measure(model: LatentUpsampler, vae: AutoencoderKL, pairs: Pairs) -> None:
    """Prints PSNR of the decode of learned and bicubic latents against the decode of the true ones."""
    for size in (256, 512):
        low, high = pairs.held_out(size)
        bicubic = F.interpolate(low, scale_factor=2, mode="bicubic", align_corners=False)
        decode = [torch.cat([vae.decode(z[None]).sample.clamp(-1, 1) for z in s]) for s in (high, model(low), bicubic)]
        ours, plain = (
            np.mean([psnr(F.mse_loss(a, b).item()) for a, b in zip(d, decode[0], strict=True)]) for d in decode[1:]
        )
        print(
            f"{size} -> {2 * size}: learned {ours:.2f} dB, bicubic {plain:.2f} dB, {HELD_OUT} held out",
            flush=True,
        )


@torch.no_grad()
def double_all(model: LatentUpsampler, work: Path) -> None:
    """WORK/latents_1024u.npy: every 512 px latent doubled."""
    stack, _ = latents.load(work, 512)
    part = work / "latents_1024u.part.npy"
    out = np.lib.format.open_memmap(part, "w+", np.float16, (len(stack), 16, 64, 64))
    with autocast():
        for k in range(0, len(stack), 16):
            out[k : k + 16] = model(torch.from_numpy(stack[k : k + 16].astype(np.float32))).float().numpy()
    out.flush()
    part.rename(work / "latents_1024u.npy")


def train(args) -> None:
    """The loop."""
    prepare(args)
    model = build() if args.fresh or not args.init else LatentUpsampler.from_pretrained(args.init / "upsampler")
    model.float().train()
    vae, pairs = scaled_vae(args.work, args.init), Pairs(args.data, args.work, args.seed)
    optimiser = MuonAdam(parameter_groups(model), LEARNING_RATE)
    loop, seen = Loop(args, CHECKPOINT, model, optimiser, LEARNING_RATE, decay=0.995, floor=0.01), []
    for _ in loop:
        size, count = (256, 16) if loop.rng.random() < 0.6 else (512, 4)
        low, high = pairs(size, count)
        room = high.shape[-1] - CROP
        latent, pixels = loss_of(model, vae, low, high, loop.rng.randint(0, room), loop.rng.randint(0, room))
        loop.update(latent + pixels)
        seen.append((latent.item(), pixels.item()))
        loop.report(lambda: "latents {:.4f} pixels {:.4f}".format(*np.mean(seen[-100:], 0)))
    load_average(loop.path, model).eval()
    if args.out:
        model.half().save_pretrained(args.out)
        model.float()
    measure(model, vae, pairs)
    double_all(model, args.work)


def arguments(argv: list[str] | None = None) -> Namespace:
    """The command line."""
    p = parser(__doc__, 5)
    p.add_argument("--out", type=Path, help="where to save the model folder, e.g. assets/embedded/upsampler")
    p.add_argument("--fresh", action="store_true", help="a new network, of --init the autoencoder alone")
    return p.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
