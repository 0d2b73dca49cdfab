"""Noise and latents: coupled noise, re-noising, resizing. Latents are (B, C, h, w), scaled as the denoiser has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lssgen.process import Process


@dataclass(frozen=True)
class LatentSpace:
    """A VAE's latent space: one latent pixel covers `factor` x `factor` pixels."""

    channels: int
    factor: int


def renoise(x0: torch.Tensor, noise: torch.Tensor, sigma: float, process: Process) -> torch.Tensor:
    """Clean latents brought to noise level sigma, in the scheduler's own units (LSSGen's re-noising)."""
    signal, amplitude = process.mix(sigma)
    return signal * x0 + amplitude * noise


def clean_estimate(
    before: torch.Tensor, after: torch.Tensor, sigma: float, sigma_next: float, process: Process
) -> torch.Tensor:
    """The denoiser's x0 estimate recovered from one step from sigma to sigma_next.

    Euler: after = before + (sigma_next - sigma) d with d = dx / dsigma, and x0 = x - sigma d, for flow and EDM alike;
    VP latents are EDM's scaled, and DDIM is Euler there. Exact for those, an approximation for other solvers.
    """
    before, after = before.float(), after.float()
    if process is Process.VP:
        before, after = before / process.mix(sigma)[0], after / process.mix(sigma_next)[0]
    return before - sigma * (after - before) / (sigma_next - sigma)


def coupled_noise(noise: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The full-size noise seen at a lower resolution: white, unit variance, sharing its low frequencies.

    At a ratio of 2^k this is the mean over 2^k x 2^k blocks, times 2^k. At any other ratio it is the low-frequency
    block of the orthonormal 2-D DCT-II, transformed back at the small size: orthonormal maps keep white noise white.

    Args:
        noise: (B, C, H, W), standard normal.
        height, width: latent size wanted, at most (H, W).

    Returns:
        (B, C, height, width), standard normal.

    Raises:
        ValueError: if the size wanted is larger than the noise.
    """
    full_height, full_width = noise.shape[-2:]
    if height > full_height or width > full_width:
        raise ValueError(f"coupled noise of {width} x {height} from {full_width} x {full_height}; it can only shrink")
    if (height, width) == (full_height, full_width):
        return noise
    ratio = full_height // height
    if ratio & (ratio - 1) == 0 and (height * ratio, width * ratio) == (full_height, full_width):
        return F.avg_pool2d(noise.float(), ratio).mul(ratio).to(noise.dtype)
    where = torch.device("cpu") if noise.device.type == "mps" else noise.device  # Apple's GPUs have no float64
    rows, columns = _dct_lowpass(full_height, height, where), _dct_lowpass(full_width, width, where)
    return (rows @ noise.to(where).double() @ columns.mT).to(noise)


def _dct_lowpass(n: int, m: int, device: torch.device) -> torch.Tensor:
    """(m, n) map with orthonormal rows: DCT-II of length n, its first m coefficients, inverse DCT of length m."""
    return _dct_matrix(m, device).mT @ _dct_matrix(n, device)[:m]


def _dct_matrix(n: int, device: torch.device) -> torch.Tensor:
    """Orthonormal DCT-II matrix (n, n), float64: D[k, i] = c_k cos(pi (i + 1/2) k / n)."""
    i = torch.arange(n, dtype=torch.float64, device=device)
    matrix = torch.cos(math.pi / n * (i + 0.5)[None, :] * i[:, None]) * math.sqrt(2.0 / n)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def resize(latents: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """(B, C, h, w) -> (B, C, height, width) by `bicubic` (antialiased when shrinking) or `nearest` interpolation."""
    if tuple(latents.shape[-2:]) == (height, width):
        return latents
    size = (height, width)
    if mode == "nearest":
        return F.interpolate(latents.float(), size=size, mode="nearest-exact").to(latents.dtype)
    return F.interpolate(latents.float(), size=size, mode="bicubic", antialias=True).to(latents.dtype)
