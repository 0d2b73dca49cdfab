"""Load a model into something the sampler can run: stock pipeline, adapter, upsampler, preview."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from lssgen.families.base import Adapter, Model
from lssgen.families.folders import family_at, resolve, settings
from lssgen.families.placement import LESS_MEMORY, Placement, parameters_of, placement, put, settled
from lssgen.families.previewers import previewer
from lssgen.families.remote import named, variant_of, weights
from lssgen.families.table import ModelError
from lssgen.hub import Progress, brief
from lssgen.upsampler import LatentUpsampler


def fetch(model: str, place: Placement, progress: Progress | None = None) -> Path:
    """The folder of a model with all its weights, downloaded where they are not here yet. Raises ModelError.

    Args:
        model: `embedded`, a folder or a hub id.
        place: half-precision files are taken for 16-bit types.
        progress: told the share and what to say; what it raises breaks the download off. None: bars on stderr.
    """
    remote = named(model)
    return resolve(model) if remote is None else weights(remote, place.half, progress)


def load(
    model: str, place: Placement | None = None, upsampler: Path | None = None, progress: Progress | None = None
) -> Model:
    """Load `embedded`, a diffusers folder or a hub id.

    Args:
        model: which.
        place: device, dtype and offloading; what this machine does best by default.
        upsampler: a LatentUpsampler's folder, in place of the model's own `upsampler/`.
        progress: as in `fetch`.

    Raises:
        ModelError: if it is missing, broken, too large, or of a family not adapted.
        ValueError: for a device that is not here.
    """
    place = place or placement()
    its, family = settings(model), family_at(model)
    folder = fetch(model, place, progress)
    try:
        place = settled(place, parameters_of(folder, place.half), its.name)
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=place.dtype, variant=variant_of(folder, place.half), use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
        put(pipe, place)
    except ModelError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(f"{its.name} does not fit into the memory of {place.device}; use {LESS_MEMORY}") from error
    except Exception as error:  # diffusers, transformers and safetensors each raise their own kinds
        raise ModelError(f"the model at {folder} cannot be loaded ({brief(error)}); restore its files") from error
    pipe.set_progress_bar_config(disable=True)
    if all(p.ndim < 5 for p in pipe.vae.parameters()) and place.offload != "sequential":  # not Qwen-Image's video VAE
        pipe.vae.to(memory_format=torch.channels_last)  # decodes about 1.4 times as fast on a CPU
    adapter = family.adapter_class()(pipe, its.max_sequence_length)
    return Model(adapter, _upsampler(upsampler or folder / "upsampler", adapter, place), previewer(its, adapter))


def _upsampler(folder: Path, adapter: Adapter, place: Placement) -> LatentUpsampler | None:
    if not folder.is_dir():
        return None
    try:
        upsampler = LatentUpsampler.from_pretrained(folder, dtype=place.dtype, local_files_only=True)
    except Exception as error:
        raise ModelError(f"the upsampler at {folder} cannot be loaded ({brief(error)})") from error
    if upsampler.config.in_channels != adapter.space.channels:
        raise ModelError(
            f"the upsampler at {folder} is for {upsampler.config.in_channels} latent channels; "
            f"this model's VAE has {adapter.space.channels}"
        )
    return upsampler.to(place.device).eval()
