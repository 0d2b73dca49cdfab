"""The table of model families: the published geometry `plan` works from without weights, and each one's defaults."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lssgen.request import check_real, check_whole
from lssgen.schedule import ScheduleSource

if TYPE_CHECKING:
    from lssgen.families.base import Adapter


class ModelError(ValueError):
    """A model cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """How a model wants to be run.

    `guidance_scale` is None where guidance is built in and cannot be set; `takes_negative` says whether a negative
    prompt acts. `text_tokens` is how many the denoiser sees of a usual prompt, None where prompts are padded to
    `max_sequence_length`. `latent_rgb` is the map of `lssgen.previews.LatentPreview`. `licence` is shown where the
    model is offered. `vae` is the key of its latent space, as in `lssgen.families.known`, "" where that is not known.
    """

    name: str
    steps: int = 28
    guidance_scale: float | None = 3.5
    takes_negative: bool = True
    max_sequence_length: int = 512
    text_tokens: int | None = None
    base_side: int = 1024
    licence: str = "unknown"
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None
    vae: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "max_sequence_length", "base_side"):
            check_whole(name, getattr(self, name), 1, 4096)
        if self.text_tokens is not None:
            check_whole("text_tokens", self.text_tokens, 1, 4096)
        if self.guidance_scale is not None:
            check_real("guidance_scale", self.guidance_scale, 0.0, 100.0)


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        name: for the command line.
        title: for people.
        adapter: "module:class" under `lssgen.families`, imported when first needed.
        pipelines: class names of the stock pipelines it adapts.
        scheduler, denoiser: what matters of scheduler_config.json and the transformer's or unet's config.json, as
            published; Euler in place of the PNDM of SD 1.5.
        vae_factor: pixels of one latent pixel's side.
        settings: the published model's defaults.
        guidance_flag: the denoiser's configuration key without which guidance is built in.
    """

    name: str
    title: str
    adapter: str
    pipelines: tuple[str, ...]
    scheduler: dict[str, Any]
    denoiser: dict[str, Any]
    vae_factor: int
    settings: Settings
    guidance_flag: str | None = None

    def adapter_class(self) -> type[Adapter]:
        """The adapter, imported."""
        module, name = self.adapter.split(":")
        return getattr(importlib.import_module(f"lssgen.families.{module}"), name)

    @cached_property
    def source(self) -> ScheduleSource:
        """Schedules and costs of the published model, without weights."""
        from lssgen.families.source import Source

        its = self.settings
        geometry = self.scheduler, self.denoiser, self.vae_factor
        return Source(
            self.name, self.adapter_class(), *geometry, its.text_tokens or its.max_sequence_length, its.base_side
        )

    def to_dict(self) -> dict[str, Any]:
        """A row of the table, JSON-ready."""
        its = self.settings
        return {
            "name": self.name,
            "title": self.title,
            "pipelines": list(self.pipelines),
            "multiple": self.vae_factor * self.adapter_class().patch,
            "steps": its.steps,
            "guidance_scale": its.guidance_scale,
            "licence": its.licence,
        }


FLOW_EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
EULER = {"_class_name": "EulerDiscreteScheduler", **SCALED_LINEAR, "timestep_spacing": "leading"}

_ROWS = (
    Family(
        name="flux",
        title="FLUX.1 (dev geometry: f8 VAE, 4,096 tokens at 1024 px)",
        adapter="flux:FluxAdapter",
        pipelines=("FluxPipeline",),
        scheduler={
            **FLOW_EULER,
            "use_dynamic_shifting": True,
            "shift": 3.0,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
        denoiser={"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38},
        vae_factor=8,
        settings=Settings(
            name="FLUX.1-dev", takes_negative=False, licence="FLUX.1 [dev] Non-Commercial License"
        ),
        guidance_flag="guidance_embeds",
    ),
    Family(
        name="sd3",
        title="Stable Diffusion 3 and 3.5 (3 medium geometry)",
        adapter="sd3:SD3Adapter",
        pipelines=("StableDiffusion3Pipeline",),
        scheduler={**FLOW_EULER, "shift": 3.0},
        denoiser={"num_attention_heads": 24, "attention_head_dim": 64, "num_layers": 24},
        vae_factor=8,
        settings=Settings(
            name="SD3 medium", guidance_scale=7.0, max_sequence_length=256,
            licence="Stability AI Community License",
        ),
    ),
    Family(
        name="sdxl",
        title="SDXL, Playground v2.5, Turbo and LCM variants (SDXL base geometry)",
        adapter="sdxl:SDXLAdapter",
        pipelines=("StableDiffusionXLPipeline",),
        scheduler=EULER,
        denoiser={
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "cross_attention_dim": 2048,
        },
        vae_factor=8,
        settings=Settings(
            name="SDXL base", steps=50, guidance_scale=5.0, max_sequence_length=77,
            licence="CreativeML Open RAIL++-M",
        ),
    ),
    Family(
        name="sd15",
        title="Stable Diffusion 1.5",
        adapter="sd15:SD15Adapter",
        pipelines=("StableDiffusionPipeline",),
        scheduler=EULER,
        denoiser={
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "cross_attention_dim": 768,
        },
        vae_factor=8,
        settings=Settings(
            name="SD 1.5", steps=50, guidance_scale=7.5, max_sequence_length=77, base_side=512,
            licence="CreativeML Open RAIL-M",
        ),
    ),
    Family(
        name="cogview4",
        title="CogView4 (6B geometry)",
        adapter="cogview4:CogView4Adapter",
        pipelines=("CogView4Pipeline",),
        scheduler={
            **FLOW_EULER,
            "use_dynamic_shifting": True,
            "time_shift_type": "linear",
            "base_shift": 0.25,
            "max_shift": 0.75,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
        denoiser={"num_attention_heads": 32, "attention_head_dim": 128, "num_layers": 28},
        vae_factor=8,
        settings=Settings(
            name="CogView4", steps=50, guidance_scale=3.5, max_sequence_length=1024, text_tokens=32,
            licence="Apache License 2.0",
        ),
    ),
    Family(
        name="z-image",
        title="Z-Image and Z-Image Turbo (Turbo schedule)",
        adapter="z_image:ZImageAdapter",
        pipelines=("ZImagePipeline",),
        scheduler={**FLOW_EULER, "shift": 3.0},
        denoiser={"dim": 3840, "n_layers": 30, "n_refiner_layers": 2},
        vae_factor=8,
        settings=Settings(
            name="Z-Image Turbo", steps=9, guidance_scale=0.0, text_tokens=64, licence="Apache License 2.0"
        ),
    ),
    Family(
        name="qwen-image",
        title="Qwen-Image",
        adapter="qwen_image:QwenImageAdapter",
        pipelines=("QwenImagePipeline",),
        scheduler={
            **FLOW_EULER,
            "use_dynamic_shifting": True,
            "shift_terminal": 0.02,
            "base_shift": 0.5,
            "max_shift": 0.9,
            "base_image_seq_len": 256,
            "max_image_seq_len": 8192,
        },
        denoiser={"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 60},
        vae_factor=8,
        settings=Settings(
            name="Qwen-Image", steps=50, guidance_scale=4.0, text_tokens=32, licence="Apache License 2.0"
        ),
    ),
    Family(
        name="lumina2",
        title="Lumina Image 2.0",
        adapter="lumina2:Lumina2Adapter",
        pipelines=("Lumina2Pipeline",),
        scheduler={**FLOW_EULER, "shift": 6.0},
        denoiser={
            "hidden_size": 2304,
            "num_layers": 26,
            "num_refiner_layers": 2,
            "num_attention_heads": 24,
            "num_kv_heads": 8,
        },
        vae_factor=8,
        settings=Settings(
            name="Lumina Image 2.0", steps=30, guidance_scale=4.0, max_sequence_length=256,
            licence="Apache License 2.0",
        ),
    ),
    Family(
        name="sana",
        title="Sana (1.6B geometry)",
        adapter="sana:SanaAdapter",
        pipelines=("SanaPipeline",),
        scheduler={
            "_class_name": "DPMSolverMultistepScheduler",
            "num_train_timesteps": 1000,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
        },
        denoiser={"num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20, "mlp_ratio": 2.5},
        vae_factor=32,
        settings=Settings(name="Sana 1.6B", steps=20, guidance_scale=4.5, max_sequence_length=300),
    ),
    Family(
        name="flux2",
        title="FLUX.2 dev",
        adapter="flux2:Flux2Adapter",
        pipelines=("Flux2Pipeline",),
        scheduler={**FLOW_EULER, "use_dynamic_shifting": True},
        denoiser={
            "num_attention_heads": 48,
            "attention_head_dim": 128,
            "num_layers": 8,
            "num_single_layers": 48,
            "mlp_ratio": 3.0,
        },
        vae_factor=8,
        settings=Settings(
            name="FLUX.2-dev", steps=50, guidance_scale=4.0, takes_negative=False,
            licence="FLUX Non-Commercial License",
        ),
    ),
    Family(
        name="flux2-klein",
        title="FLUX.2 klein (4B geometry)",
        adapter="flux2:Flux2KleinAdapter",
        pipelines=("Flux2KleinPipeline",),
        scheduler={**FLOW_EULER, "use_dynamic_shifting": True},
        denoiser={
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "num_layers": 5,
            "num_single_layers": 20,
            "mlp_ratio": 3.0,
        },
        vae_factor=8,
        settings=Settings(
            name="FLUX.2-klein 4B", steps=4, guidance_scale=1.0, licence="Apache License 2.0"
        ),
    ),
)  # fmt: skip
FAMILIES = {row.name: row for row in _ROWS}


def family(name: str) -> Family:
    """A family by name. Raises ValueError naming the ones there are."""
    if name not in FAMILIES:
        raise ValueError(f"family is {name!r}; it must be one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(pipeline: str) -> Family | None:
    """The family that adapts a stock pipeline class, by its name."""
    return next((row for row in FAMILIES.values() if pipeline in row.pipelines), None)
