"""What an upsampler may learn in place of the true picture: a better answer than its own, as sharp as is asked for.

Small latents tell two pictures: that of the upsampler's own answer, and the small one, decoded and enlarged, which no
upsampler sees. Where their errors differ the mean of both is nearer to the truth than either. It lacks fine detail, as
means do, so each frequency is made stronger, by a share of what it lacks of true pictures. All of it follows from the
small latents: a training is spared the detail that no answer can foresee, which is most of its noise.
"""

from __future__ import annotations

import torch

from lssgen.latents import resize
from lssgen.training import measures
from lssgen.training.measures import RINGS
from lssgen.training.pairs import Crops
from lssgen.training.vaes import Vae
from lssgen.upsampler import LatentUpsampler

CROPS = 48  # that frequencies are measured on
MOST = 4.0  # times what is there, at most, that a frequency may lack


class Teacher:
    """Pictures to learn, from small latents.

    Args:
        model: the upsampler to surpass, where the autoencoder is.
        vae: its autoencoder.
        gains: factors of the frequencies in RINGS rings of a picture twice the small one's size: (RINGS,).
    """

    def __init__(self, model: LatentUpsampler, vae: Vae, gains: torch.Tensor) -> None:
        self._model, self._vae, self.gains = model, vae, gains

    @classmethod
    def of(cls, model: LatentUpsampler, vae: Vae, crops: Crops, device: torch.device, share: float) -> Teacher:
        """One whose pictures are to `share`, from 0 to 1 and on a scale of decibels, as sharp as those of `crops`,
        which are to come with others half as large."""
        plain = cls(model, vae, torch.ones(RINGS, device=device))
        pairs = [[pixels[None].to(device) for pixels in crops()] for _ in range(CROPS)]
        true = sum(measures.ring_power(whole)[0] for whole, _ in pairs)
        made = sum(measures.ring_power(plain(vae.encode(small), *whole.shape[-2:]))[0] for whole, small in pairs)
        return cls(model, vae, (true / made.clamp_min(1e-12)).sqrt().clamp(1.0, MOST) ** share)

    @torch.no_grad()
    def __call__(self, low: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Scaled latents (B, C, h, w) of a picture's smaller copy -> (B, 3, height, width) in [-1, 1]."""
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
