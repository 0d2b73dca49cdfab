"""An upsampler from its folder, of whichever kind it is."""

from __future__ import annotations

from pathlib import Path

import torch

from lssgen.hub import brief
from lssgen.upsampler.base import Upsampler
from lssgen.upsampler.residual import LatentUpsampler
from lssgen.upsampler.round_trip import RoundTripUpsampler


def blank_upsampler(folder: Path) -> Upsampler:
    """One as the configuration in a folder tells, with weights of its own.

    Raises:
        OSError: if there is no configuration.
        TypeError, ValueError: if it is none of an upsampler.
    """
    config = LatentUpsampler.load_config(folder, local_files_only=True)
    return _kind(config).from_config(config)


def load_upsampler(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Upsampler:
    """The upsampler of a folder, ours or of the published layout, ready to be used; on the CPU by default.

    Raises:
        ValueError: if it cannot be loaded, or its file lacks a weight.
    """
    try:
        kind = _kind(LatentUpsampler.load_config(folder, local_files_only=True))
        model, found = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
        lacking = found["missing_keys"]
        if not lacking:
            return model.to(device or torch.device("cpu")).eval()
    except Exception as error:  # diffusers and safetensors each raise their own kinds
        raise ValueError(f"the upsampler at {folder} cannot be loaded ({brief(error)})") from error
    raise ValueError(f"the upsampler at {folder} cannot be loaded (its file lacks {lacking[0]})")


def _kind(config: dict) -> type[Upsampler]:
    """Published configurations name a class of their own; they are LatentUpsamplers."""
    return RoundTripUpsampler if config.get("_class_name") == RoundTripUpsampler.__name__ else LatentUpsampler
