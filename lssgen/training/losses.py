"""What the training of an upsampler makes small: the error of latents, and of the pictures that they decode to.

The logarithm of the mean squared error is the PSNR. Alone it is best served by a blur, and it hardly sees a shift of
all colours. So there are losses for the energy in the top octave that the small picture carries and in the large
picture's finest octave, which at x2 the small one cannot carry, one for the spectrum from there on, which asks for
detail of the right strength wherever it is, and one for the means.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lssgen.training import measures

WEIGHED = {"latents": 10, "energy": 10, "texture": 10, "spectrum": 10, "colours": 100}  # at most; the pixels' is 1
FLAT_ERROR, FLAT_AMPLITUDE, FLAT_POWER = 5e-3, 1e-2, 4e-5  # added, for pixels in [-1, 1]: flat pictures count no more
CELL = 32  # pixels of a side


def latents_error(made: torch.Tensor, true: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference in units of each channel's deviation."""
    return ((made - true) / deviation).abs().mean()


def pixels_error(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Logarithm of each picture's mean squared error, averaged."""
    return ((made - true).square().mean((1, 2, 3)) + FLAT_ERROR).log().mean()


def energy_error(made: torch.Tensor, true: torch.Tensor, ratio: float) -> torch.Tensor:
    """Mean absolute difference of the amplitude in each CELL of a picture over its mean true one, averaged, in the top
    octave that a picture `ratio` times smaller carries."""
    of_made, of_true = _amplitude(made, ratio), _amplitude(true, ratio)
    difference = (of_made - of_true).abs().mean((1, 2))
    return (difference / (of_true.mean((1, 2)) + FLAT_AMPLITUDE)).mean()


def _amplitude(pixels: torch.Tensor, ratio: float) -> torch.Tensor:
    """Root mean square of the octave in each cell, (B, H / CELL, W / CELL); one cell for a smaller picture."""
    energy = F.avg_pool2d(measures.octave(pixels, ratio).square().unsqueeze(1), min(CELL, *pixels.shape[-2:]))
    return energy.squeeze(1).clamp_min(1e-8).sqrt()


def spectrum_error(made: torch.Tensor, true: torch.Tensor, ratio: float) -> torch.Tensor:
    """Mean absolute difference of the power in rings of the spectrum, in bels (10 dB), from the top octave that a
    picture `ratio` times smaller carries to the finest detail."""
    first = measures.carried_rings(2 * ratio)
    of_made, of_true = ((measures.ring_power(x)[:, first:] + FLAT_POWER).log10() for x in (made, true))
    return (of_made - of_true).abs().mean()


def colours_error(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the means of each picture's channels."""
    return (made - true).mean((2, 3)).abs().mean()
