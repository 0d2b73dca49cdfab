"""Finding a model, its settings, and its schedules and costs from its configuration without its weights.

A model is `embedded`, a diffusers folder or a hub id. Its folder may carry `lssgen.json` beside `model_index.json`,
with any field of `Settings`, a `vocabulary.json` with the words it knows, and an `upsampler/`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lssgen.families.known import ASSETS, known, known_by_name, shipped_upsampler, space_of
from lssgen.families.remote import configuration, named
from lssgen.families.table import FAMILIES, Family, ModelError, Settings, family_of
from lssgen.families.vocabulary import Vocabulary
from lssgen.schedule import ScheduleSource


def _model_errors(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Whatever a missing, incomplete or odd folder makes Python raise becomes a ModelError."""

    @functools.wraps(function)
    def checked(model: str) -> Any:
        try:
            return function(model)
        except ModelError:
            raise
        except (OSError, RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise ModelError(f"the model {model[:200]!r} cannot be read ({what}); restore its configuration") from error

    return checked


@_model_errors
def resolve(model: str) -> Path:
    """The folder of a model: `embedded`, a path, or the cached configuration of a hub id, fetched if need be.

    Raises:
        ModelError: if there is no diffusers model there, or its pipeline is of a family not adapted.
    """
    remote = named(model)
    if model == "embedded":
        folder = ASSETS / "embedded"
    else:
        folder = configuration(remote) if remote else Path(model).expanduser()
    if not (folder / "model_index.json").is_file():
        hint = "use 'embedded', a diffusers folder or a hub id such as stabilityai/stable-diffusion-xl-base-1.0"
        hint = "restore assets/ from the repository" if model == "embedded" else hint
        raise ModelError(f"no model at {folder} (it has no model_index.json); {hint}")
    _family(folder)
    return folder


@_model_errors
def settings(model: str) -> Settings:
    """The settings of a model: its own `lssgen.json`, over those known of its name, over its family's.

    A folder that bears a known model's name, such as FLUX.1-schnell, is taken for it. Raises ModelError.
    """
    folder, remote = resolve(model), named(model)
    family = _family(folder)
    row = known(remote.repo) if remote else known_by_name(folder.name)
    facts = {}
    if row and row.family == family.name:
        facts = {"vae": row.vae, "licence": row.licence, **(row.settings or {})}
    if (folder / "vae" / "config.json").is_file():
        facts.setdefault("vae", space_of(read_json(folder / "vae" / "config.json")))
    if read_json(folder / "model_index.json").get("is_distilled"):  # FLUX.2 klein
        facts.setdefault("takes_negative", False)
    own = read_json(folder / "lssgen.json") if (folder / "lssgen.json").is_file() else {}
    unknown = set(own) - {field.name for field in fields(Settings)}
    if unknown:
        raise ModelError(f"{folder / 'lssgen.json'} has unknown fields: {', '.join(sorted(unknown))}")
    if family.guidance_flag and not _denoiser(folder).get(family.guidance_flag):
        own.setdefault("guidance_scale", None)
    name = remote.repo if remote else folder.name
    return Settings(**{**asdict(family.settings), "name": name, "licence": "unknown", **facts, **own})


@_model_errors
def vocabulary(model: str) -> Vocabulary | None:
    """The words a model was trained on, where its folder tells them. Raises ModelError."""
    return Vocabulary.read(resolve(model))


@_model_errors
def source(model: str) -> ScheduleSource:
    """Schedules and costs of a model from its folder's configuration, without loading weights. Raises ModelError."""
    from lssgen.families.source import Source

    folder, its = resolve(model), settings(model)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    factor = vae_factor(read_json(folder / "vae" / "config.json"))
    adapter, denoiser = _family(folder).adapter_class(), _denoiser(folder)
    tokens = its.text_tokens or its.max_sequence_length
    return Source(its.name, adapter, scheduler, denoiser, factor, tokens, its.base_side)


def upsampler_folder(model: str, given: Path | None = None) -> Path | None:
    """The folder of the learned upsampler: the given one, else the model's own `upsampler/`, else the one in this
    repository for the latent space of its VAE, else None.

    Raises:
        ModelError: if there is none where one was given, or its config.json tells of another latent space.
    """
    own, vae = resolve(model) / "upsampler", read_json(resolve(model) / "vae" / "config.json")
    ours, wanted = settings(model).vae, vae.get("latent_channels") or vae.get("z_dim")
    folder = given or (own if own.is_dir() else None)
    if folder is None:
        shipped = shipped_upsampler(ours)
        return shipped if shipped and read_json(shipped / "config.json").get("in_channels") == wanted else None
    if given is not None and not (folder / "config.json").is_file():
        raise ModelError(f"no upsampler at {folder} (it has no config.json); name an upsampler's folder")
    config = read_json(folder / "config.json")
    its, channels = config.get("vae"), config.get("in_channels")
    if its and ours and its != ours:
        raise ModelError(f"the upsampler at {folder} is for the latents of {its!r}; this model's are of {ours!r}")
    if channels != wanted:
        raise ModelError(f"the upsampler at {folder} is for {channels} latent channels; this model's VAE has {wanted}")
    return folder


def vae_factor(config: dict[str, Any]) -> int:
    """Pixels of one latent pixel's side, from a VAE's configuration: each level after the first halves the size."""
    if "temperal_downsample" in config:  # Qwen-Image's video autoencoder
        return 2 ** len(config["temperal_downsample"])
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)


@_model_errors
def family_at(model: str) -> Family:
    """The family of a model's folder. Raises ModelError."""
    return _family(resolve(model))


def _family(folder: Path) -> Family:
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    found = family_of(str(pipeline))
    if found is None:
        known = sorted(name for row in FAMILIES.values() for name in row.pipelines)
        raise ModelError(
            f"{folder} is a {pipeline}; adapted are {', '.join(known)}. Another needs an Adapter with weightless, "
            "probe_inputs, step_flops and encode, and a row in lssgen/families/table.py: see the README"
        )
    return found


def _denoiser(folder: Path) -> dict[str, Any]:
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    return read_json(folder / part / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); restore the model's folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object; restore the model's folder")
    return content
