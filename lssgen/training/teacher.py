"""What an upsampler may learn in place of the true picture: a better answer than its own, as sharp as is asked for.

Small latents tell two pictures: that of the upsampler's own answer, and the small one, decoded and enlarged, which no
upsampler sees. Where their errors differ the mean of both is nearer to the truth than either. It lacks fine detail, as
means do, so each frequency is made stronger, by a share of what it lacks of true pictures. A training is spared the
detail that no answer can foresee, which is most of its noise. Colours alone are taken from the true picture: neither
answer has them wholly right, and the autoencoder least of all on plain areas.
"""

from __future__ import annotations

import math

import torch

from lssgen.latents import resize
from lssgen.training import measures
from lssgen.training.measures import RINGS
from lssgen.training.pairs import Crops
from lssgen.training.vaes import Vae
from lssgen.upsampler import Upsampler

CROPS = 48  # that frequencies are measured on
MOST = 4.0  # times what is there, at most, that a frequency may lack
SMOOTH = 16.0  # pixels: deviation of the Gaussian that leaves colours alone of a picture


class Teacher:
    """Pictures to learn, from small latents.

    Args:
        model: the upsampler to surpass, where the autoencoder is.
        vae: its autoencoder.
        gains: factors of the frequencies in RINGS rings of a picture twice the small one's size: (RINGS,).
    """

    def __init__(self, model: Upsampler, vae: Vae, gains: torch.Tensor) -> None:
        self._model, self._vae, self.gains = model, vae, gains

    @classmethod
    def of(cls, model: Upsampler, vae: Vae, crops: Crops, device: torch.device, share: float) -> Teacher:
        """One whose pictures are to `share`, from 0 to 1 and on a scale of decibels, as sharp as those of `crops`,
        which are to come with others half as large."""
        plain = cls(model, vae, torch.ones(RINGS, device=device))
        pairs = [[pixels[None].to(device) for pixels in crops()] for _ in range(CROPS)]
        true = sum(measures.ring_power(whole)[0] for whole, _ in pairs)
        own = (plain.sharpened(vae.encode(small), *whole.shape[-2:]) for whole, small in pairs)
        made = sum(measures.ring_power(picture)[0] for picture in own)
        return cls(model, vae, (true / made.clamp_min(1e-12)).sqrt().clamp(1.0, MOST) ** share)

    def __call__(self, low: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) of a smaller copy of the picture `true`, (B, 3, H, W) in [-1, 1] -> its shape."""
        made = self.sharpened(low, *true.shape[-2:])
        return (made + smooth(true - made)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def sharpened(self, low: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """As above without what follows from the true picture: (B, 3, height, width)."""
        size = height // self._vae.factor, width // self._vae.factor
        made, small = (self._vae.decode(z).float().clamp(-1.0, 1.0) for z in (self._model(low, size), low))
        mean = (made + resize(small, height, width, "bicubic").clamp(-1.0, 1.0)) / 2.0
        ratio = height / small.shape[-2]
        return measures.filtered(mean, lambda radius: self._gain(radius * ratio / 2.0)).clamp(-1.0, 1.0)

    def _gain(self, radius: torch.Tensor) -> torch.Tensor:
        """Of frequencies in cycles for each pixel at x2, between the middles of rings by interpolation."""
        at = (radius * 2 * RINGS - 0.5).clamp(0, RINGS - 1)
        below = at.long()
        return torch.lerp(self.gains[below], self.gains[(below + 1).clamp(max=RINGS - 1)], at - below)


def smooth(pictures: torch.Tensor) -> torch.Tensor:
    """Without all that is finer than SMOOTH pixels or so."""
    return measures.filtered(pictures, lambda radius: (-2.0 * (math.pi * SMOOTH * radius) ** 2).exp())
