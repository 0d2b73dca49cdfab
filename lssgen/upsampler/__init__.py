"""Learned upsamplers, which enlarge latents in latent space: the paper's network and ours of other kinds."""

from lssgen.upsampler.base import Upsampler
from lssgen.upsampler.load import blank_upsampler, load_upsampler
from lssgen.upsampler.residual import LatentUpsampler
from lssgen.upsampler.round_trip import RoundTripUpsampler

__all__ = ["LatentUpsampler", "RoundTripUpsampler", "Upsampler", "blank_upsampler", "load_upsampler"]
