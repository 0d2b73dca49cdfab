"""Load a model into something the sampler can run: stock pipeline, adapter, upsampler, preview."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from lssgen.families.base import Model
from lssgen.families.folders import family_at, resolve, settings, upsampler_folder
from lssgen.families.placement import (
    Placement,
    less_memory,
    out_of_memory,
    parameters_of,
    placement,
    put,
    settled,
)
from lssgen.families.previewers import fetch_decoder, previewer
from lssgen.families.remote import named, variant_of, weights
from lssgen.families.table import ModelError
from lssgen.hub import Progress, brief
from lssgen.upsampler import Upsampler, load_upsampler


def fetch(model: str, place: Placement, progress: Progress | None = None) -> Path:
    """The folder of a model with all its weights, downloaded where they are not here yet. Raises ModelError.

    Args:
        model: `embedded`, a folder or a hub id.
        place: files of its precision are taken where there are any.
        progress: told the share and what to say; what it raises breaks the download off. None: bars on stderr.
    """
    remote = named(model)
    folder = resolve(model) if remote is None else weights(remote, place.variants, progress)
    fetch_decoder(settings(model), place.device, progress)
    return folder


def load(
    model: str, place: Placement | None = None, upsampler: Path | None = None, progress: Progress | None = None
) -> Model:
    """Load `embedded`, a diffusers folder or a hub id.

    Args:
        model: which.
        place: device, dtype and offloading; what this machine does best by default.
        upsampler: an upsampler's folder, in place of the model's own `upsampler/`.
        progress: as in `fetch`.

    Raises:
        ModelError: if it is missing, broken, too large, or of a family not adapted.
        ValueError: for a device that is not here.
    """
    place = place or placement()
    its, family = settings(model), family_at(model)
    upsampler_folder(model, upsampler)  # refused before anything is downloaded
    folder = fetch(model, place, progress)
    free_memory()
    try:
        place = settled(place, parameters_of(folder, place.variants), its.name)
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=place.dtype, variant=variant_of(folder, place.variants), use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
        put(pipe, place)
        pipe.set_progress_bar_config(disable=True)
        if place.offload != "sequential" and all(p.ndim < 5 for p in pipe.vae.parameters()):  # not Qwen-Image's
            pipe.vae.to(memory_format=torch.channels_last)  # decodes about 1.4 times as fast on a CPU
        adapter = family.adapter_class()(pipe, its.max_sequence_length)
        preview = previewer(its, adapter)
    except ModelError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors each raise their own kinds
        if out_of_memory(error):
            what = f"{its.name} does not fit into the memory of {place.device}; {less_memory(place.device)}"
            raise ModelError(what) from error
        raise ModelError(f"the model at {folder} cannot be loaded ({brief(error)}); restore its files") from error
    return Model(adapter, _upsampler(upsampler_folder(model, upsampler), place), preview)


def free_memory() -> None:
    """Give back what models that are gone have left, so that what is free can be told."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _upsampler(folder: Path | None, place: Placement) -> Upsampler | None:
    try:
        return load_upsampler(folder, place.dtype, place.device) if folder else None
    except ValueError as error:
        raise ModelError(str(error)) from error
