"""The three ways a sampler's latents mix a picture with noise, and the one scale their noise levels compare on."""

from __future__ import annotations

import math
from enum import Enum


class Process(str, Enum):
    """How x at noise level sigma is made of clean latents x0 and standard normal noise eps.

    FLOW: x = (1 - sigma) x0 + sigma eps, sigma in [0, 1] (rectified flow).
    EDM: x = x0 + sigma eps (Karras et al. 2022; diffusers' Euler and EDM schedulers).
    VP: x = (x0 + sigma eps) / sqrt(1 + sigma^2), variance preserving (DDIM, DPM-Solver, LCM).
    """

    FLOW = "flow"
    EDM = "edm"
    VP = "vp"

    def mix(self, sigma: float) -> tuple[float, float]:
        """The factors of (x0, eps)."""
        if self is Process.FLOW:
            return 1.0 - sigma, sigma
        if self is Process.EDM:
            return 1.0, sigma
        if math.isinf(sigma):  # a zero terminal signal-to-noise ratio
            return 0.0, 1.0
        scale = math.sqrt(1.0 + sigma**2)
        return 1.0 / scale, sigma / scale

    def flow_sigma(self, sigma: float) -> float:
        """The flow sigma of the same signal-to-noise ratio: sigma / (1 + sigma) for EDM and VP."""
        if self is Process.FLOW:
            return sigma
        return 1.0 if math.isinf(sigma) else sigma / (1.0 + sigma)
