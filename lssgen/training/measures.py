"""How near a decoded picture is to the true one: PSNR, SSIM, the spectrum, and the shift of its colours.

Pictures are (B, 3, H, W) in [0, 1]; each measure gives one number for each picture, (B,), but for `colour_shift`, and
for `latents_error`, which is of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

LUMA = (0.299, 0.587, 0.114)
WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian window (Wang et al. 2004)
RINGS = 24  # rings of the radial spectrum, equally wide up to the Nyquist frequency


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions in float32 as the latents are; a GPU's are in TF32 by default."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def psnr(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB."""
    return -10.0 * (made - true).square().mean((1, 2, 3)).clamp_min(1e-10).log10()


def ssim(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each channel with a Gaussian window, averaged (Wang et al. 2004); 1 is equal."""
    if made.device.type == "mps":  # Apple's GPUs have no float64
        made, true = made.cpu(), true.cpu()
    made, true = made.double(), true.double()  # variances are small differences
    x = torch.arange(WINDOW, dtype=made.dtype, device=made.device) - WINDOW // 2
    weights = torch.exp(-(x**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()

    def smooth(z: torch.Tensor) -> torch.Tensor:
        z = F.conv2d(z.flatten(0, 1).unsqueeze(1), weights.view(1, 1, 1, -1))
        return F.conv2d(z, weights.view(1, 1, -1, 1)).view(len(made), -1)

    a, b = smooth(made), smooth(true)
    variance = smooth(made * made) - a * a + smooth(true * true) - b * b
    covariance = smooth(made * true) - a * b
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance + c2))
    return similar.mean(1).float()


def spectrum_error(made: torch.Tensor, true: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
    """Root mean square over rings of the difference of radial power spectra in dB: over all, or over those that a
    picture `ratio` times smaller carries."""
    return (ring_decibels(made) - ring_decibels(true))[:, : carried_rings(ratio)].square().mean(1).sqrt()


def carried_rings(ratio: float) -> int:
    """How many rings of a picture's spectrum one `ratio` times smaller carries, from the lowest on; at least one."""
    return max(1, int(RINGS / ratio + 1e-6))


def ring_decibels(picture: torch.Tensor) -> torch.Tensor:
    """Mean power of the luma in dB in rings of the spectrum: (B, RINGS), from low to high frequencies."""
    return ring_power(picture).clamp_min(1e-12).log10() * 10.0


def latents_error(made: torch.Tensor, true: torch.Tensor) -> float:
    """Mean absolute difference of latents (B, C, h, w) in units of the deviation of each of the true one's channels."""
    deviation = true.std((0, 2, 3), keepdim=True).clamp_min(1e-4)
    return ((made - true) / deviation).abs().mean().item()


def energy_ratio(made: torch.Tensor, true: torch.Tensor, ratio: float) -> torch.Tensor:
    """Energy over the true one's in the top octave that a picture `ratio` times smaller can carry.

    That is from half its Nyquist frequency, 1 / (4 ratio) of a cycle for each pixel, to the whole of it. Less than 1 is
    blurred, more than 1 over-sharpened.
    """
    return band_energy(made, ratio) / band_energy(true, ratio).clamp_min(1e-12)


def band_energy(picture: torch.Tensor, ratio: float) -> torch.Tensor:
    """Energy of the luma in the octave that `energy_ratio` compares, its mean over frequencies: (B,)."""
    power, radius = _power(picture)
    return power[:, _in_octave(radius, ratio)].mean(1)


def correlation(made: torch.Tensor, true: torch.Tensor, ratio: float) -> torch.Tensor:
    """Of the luma in the octave that `energy_ratio` compares: 1 is the true detail, whatever its strength, 0 is detail
    that has nothing to do with it."""
    (a, radius), (b, _) = _spectrum(made), _spectrum(true)
    inside = _in_octave(radius, ratio)
    a, b = a[:, inside], b[:, inside]
    energies = a.abs().square().sum(1) * b.abs().square().sum(1)
    return (a * b.conj()).real.sum(1) / energies.clamp_min(1e-20).sqrt()


def octave(picture: torch.Tensor, ratio: float) -> torch.Tensor:
    """The luma with the octave of `energy_ratio` alone: (B, H, W)."""
    return filtered(_luma(picture), lambda radius: _in_octave(radius, ratio))


def filtered(x: torch.Tensor, gain: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """(..., H, W) with every frequency multiplied by its `gain`, a function of cycles for each pixel. Mirrored first:
    to a Fourier transform the jump from one edge to the opposite one is detail."""
    height, width = x.shape[-2:]
    x = torch.cat([x, x.flip(-1)], -1)
    x = torch.cat([x, x.flip(-2)], -2)
    spectrum = torch.fft.rfft2(x) * gain(_radius(*x.shape[-2:], x.device))
    return torch.fft.irfft2(spectrum, s=x.shape[-2:])[..., :height, :width]


def colour_shift(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean of made - true for each picture and channel, in steps of 1/255: (B, 3)."""
    return (made - true).mean((2, 3)) * 255.0


def _luma(picture: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bchw,c->bhw", picture, picture.new_tensor(LUMA))


def _radius(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Frequencies of a real spectrum in cycles for each pixel: (H, W // 2 + 1)."""
    rows, columns = torch.fft.fftfreq(height, device=device)[:, None], torch.fft.rfftfreq(width, device=device)[None]
    return torch.sqrt(rows**2 + columns**2)


def _in_octave(radius: torch.Tensor, ratio: float) -> torch.Tensor:
    top = 0.5 / ratio
    return (radius > top / 2) & (radius <= top)


def _spectrum(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(spectrum of the luma without its mean under a Hann window (B, H, W // 2 + 1), its frequencies)."""
    luma = _luma(picture)
    height, width = luma.shape[-2:]
    window = torch.outer(
        *(torch.hann_window(n, periodic=False, dtype=luma.dtype, device=luma.device) for n in (height, width))
    )
    spectrum = torch.fft.rfft2((luma - luma.mean((1, 2), keepdim=True)) * window, norm="ortho")
    return spectrum, _radius(height, width, luma.device)


def _power(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(power of that spectrum, its frequencies (H, W // 2 + 1))."""
    spectrum, radius = _spectrum(picture)
    return spectrum.abs().square(), radius


def ring_power(picture: torch.Tensor) -> torch.Tensor:
    """Mean power in rings of the spectrum: (B, RINGS), from low to high frequencies."""
    power, radius = _power(picture)
    ring = (radius * 2 * RINGS).long().flatten()
    inside = ring < RINGS
    sums = power.new_zeros(len(power), RINGS).index_add_(1, ring[inside], power.flatten(1)[:, inside])
    return sums / torch.bincount(ring[inside], minlength=RINGS).clamp_min(1)
