"""The table of model families and known models, and loading one of them.

A model folder may carry `lssgen.json` beside `model_index.json`, with any field of `Settings`, and an `upsampler/`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lssgen.request import check_real, check_whole
from lssgen.schedule import ScheduleSource

SCHEDULER = "FlowMatchEulerDiscreteScheduler"
ASSETS = Path(__file__).resolve().parents[2] / "assets"


class ModelError(ValueError):
    """A model cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """How a model wants to be run.

    `guidance_scale` is None where guidance is built in and cannot be set. `latent_rgb` is the map of
    `lssgen.previews.LatentPreview`. `licence` is shown where the model is offered.
    """

    name: str
    steps: int = 28
    guidance_scale: float | None = 3.5
    max_sequence_length: int = 512
    base_side: int = 1024
    licence: str = "unknown"
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "max_sequence_length", "base_side"):
            check_whole(name, getattr(self, name), 1, 4096)
        if self.guidance_scale is not None:
            check_real("guidance_scale", self.guidance_scale, 0.0, 100.0)


@dataclass(frozen=True)
class Family:
    """One family: the stock pipeline class it adapts and the published geometry `plan` works from without weights."""

    name: str
    pipeline: str
    title: str
    scheduler: dict[str, Any]
    transformer: dict[str, Any]
    vae_factor: int
    settings: Settings

    @property
    def source(self) -> ScheduleSource:
        """Schedules and costs of the published model, without weights."""
        from lssgen.families.flux import FluxSource

        return FluxSource(
            self.name, self.scheduler, self.transformer, self.vae_factor, self.settings.max_sequence_length
        )

    def to_dict(self) -> dict[str, Any]:
        """A row of the table, JSON-ready."""
        its = self.settings
        return {
            "name": self.name,
            "title": self.title,
            "pipeline": self.pipeline,
            "multiple": self.source.multiple,
            "steps": its.steps,
            "guidance_scale": its.guidance_scale,
            "licence": its.licence,
        }


FAMILIES = {
    "flux": Family(
        name="flux",
        pipeline="FluxPipeline",
        title="FLUX.1 (dev geometry: f8 VAE, 4,096 tokens at 1024 px)",
        scheduler={
            "num_train_timesteps": 1000,
            "use_dynamic_shifting": True,
            "shift": 3.0,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
        transformer={"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38},
        vae_factor=8,
        settings=Settings(name="FLUX.1-dev", licence="FLUX.1 [dev] Non-Commercial License"),
    ),
}


def family(name: str) -> Family:
    """A family by name. Raises ValueError naming the ones there are."""
    if name not in FAMILIES:
        raise ValueError(f"family is {name!r}; it must be one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


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
    """The folder of a model: `embedded` or a path.

    Raises:
        ModelError: if there is no diffusers folder there, or its pipeline is of a family not adapted yet.
    """
    folder = ASSETS / "embedded" if model == "embedded" else Path(model).expanduser()
    if not (folder / "model_index.json").is_file():
        hint = "restore assets/ from the repository" if model == "embedded" else "use 'embedded' or a diffusers folder"
        raise ModelError(f"no model at {folder} (it has no model_index.json); {hint}")
    pipeline = _read_json(folder / "model_index.json").get("_class_name")
    known = sorted(row.pipeline for row in FAMILIES.values())
    if pipeline not in known:
        raise ModelError(f"{folder} is a {pipeline}; the pipelines adapted so far: {', '.join(known)}")
    return folder


@_model_errors
def settings(model: str) -> Settings:
    """The settings of a model: its own `lssgen.json` over those of its family. Raises ModelError."""
    folder = resolve(model)
    own = _read_json(folder / "lssgen.json") if (folder / "lssgen.json").is_file() else {}
    unknown = set(own) - {field.name for field in fields(Settings)}
    if unknown:
        raise ModelError(f"{folder / 'lssgen.json'} has unknown fields: {', '.join(sorted(unknown))}")
    config = _read_json(folder / "transformer" / "config.json")
    if not config.get("guidance_embeds"):
        own.setdefault("guidance_scale", None)
    return Settings(**{"name": folder.name, **own})


@_model_errors
def source(model: str) -> ScheduleSource:
    """Schedules and costs of a model from its folder's configuration, without loading weights. Raises ModelError."""
    from lssgen.families.flux import FluxSource

    folder, its = resolve(model), settings(model)
    levels = _read_json(folder / "vae" / "config.json")["block_out_channels"]
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    if scheduler.get("_class_name") != SCHEDULER:
        raise ModelError(f"{folder} comes with a {scheduler.get('_class_name')}; staged sampling needs a {SCHEDULER}")
    return FluxSource(
        its.name,
        scheduler,
        _read_json(folder / "transformer" / "config.json"),
        2 ** (len(levels) - 1),
        its.max_sequence_length,
        its.base_side,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); restore the model's folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object; restore the model's folder")
    return content
