"""Load a model folder into something the sampler can run: stock pipeline, adapter, upsampler, preview map."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from lssgen.families.base import Adapter, Model
from lssgen.families.folders import family_at, resolve, settings
from lssgen.families.table import ModelError
from lssgen.previews import LatentPreview
from lssgen.upsampler import LatentUpsampler


def load(model: str, device: torch.device | str | None = None) -> Model:
    """Load `embedded` or a local diffusers folder: float32 on a CPU, bfloat16 on a GPU.

    Raises:
        ModelError: if the folder is missing, broken, or of a family not adapted yet.
    """
    folder, its = resolve(model), settings(model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
    except Exception as error:  # diffusers, transformers and safetensors each raise their own kinds
        raise ModelError(f"the model at {folder} cannot be loaded ({_first_line(error)}); restore its files") from error
    pipe.set_progress_bar_config(disable=True)
    if all(p.ndim < 5 for p in pipe.vae.parameters()):  # not Qwen-Image's video autoencoder
        pipe.vae.to(memory_format=torch.channels_last)  # decodes about 1.4 times as fast on a CPU
    adapter = family_at(model).adapter_class()(pipe, its.max_sequence_length)
    preview = LatentPreview(its.latent_rgb) if its.latent_rgb else None
    return Model(adapter, _upsampler(folder / "upsampler", adapter, device, dtype), preview)


def _upsampler(folder: Path, adapter: Adapter, device: torch.device, dtype: torch.dtype) -> LatentUpsampler | None:
    if not folder.is_dir():
        return None
    try:
        upsampler = LatentUpsampler.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()
    except Exception as error:
        raise ModelError(f"the upsampler at {folder} cannot be loaded ({_first_line(error)})") from error
    if upsampler.config.in_channels != adapter.space.channels:
        raise ModelError(
            f"the upsampler at {folder} is for {upsampler.config.in_channels} latent channels; "
            f"this model's VAE has {adapter.space.channels}"
        )
    return upsampler


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
