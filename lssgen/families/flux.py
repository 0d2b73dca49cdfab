"""FLUX.1: dev, schnell, Krea, and the embedded model. Flow matching on packed latents, shift by token count."""

from __future__ import annotations

import functools
import threading
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image

from lssgen.families.base import Adapter, OnStep, Probed, identity_shift, probing, swapped_scheduler
from lssgen.latents import LatentSpace
from lssgen.schedule import Stage

PATCH = 2  # the pipeline packs 2 x 2 latent pixels into one token


class FluxSource:
    """Schedules and costs of a FLUX model from its configuration alone: no weights, about 5 ms for a new schedule.

    Args:
        name: shown in plans.
        scheduler: scheduler_config.json as a dict.
        transformer: the transformer's config.json as a dict.
        vae_factor: pixels of one latent pixel's side.
        text_tokens: max_sequence_length of the runs.
        base_side: side in pixels at which the paper's step rule runs all steps.
    """

    def __init__(
        self,
        name: str,
        scheduler: dict[str, Any],
        transformer: dict[str, Any],
        vae_factor: int,
        text_tokens: int,
        base_side: int = 1024,
    ) -> None:
        self.name, self.base_side, self.text_tokens = name, base_side, text_tokens
        self.multiple = vae_factor * PATCH
        self._width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        self._layers = transformer["num_layers"] + transformer["num_single_layers"]
        self._pipe = _weightless_pipeline(scheduler, vae_factor)
        self._lock = threading.Lock()
        self.schedule = functools.lru_cache(maxsize=4096)(self._probe)

    def step_cost(self, height: int, width: int) -> float:
        """FLOPs of one step: 12 d^2 parameters a token and layer (both block kinds), and attention's 4 T^2 d."""
        tokens = height * width // self.multiple**2 + self.text_tokens
        linear = 2 * 12 * self._width**2 * tokens
        attention = 4 * tokens**2 * self._width
        return float(self._layers * (linear + attention))

    def _probe(self, height: int, width: int, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        with self._lock:
            try:
                self._pipe(
                    prompt_embeds=torch.zeros(1, 1, 1),
                    pooled_prompt_embeds=torch.zeros(1, 1),
                    latents=torch.zeros(1, height * width // self.multiple**2, 4),
                    height=height,
                    width=width,
                    num_inference_steps=steps,
                    output_type="latent",
                )
            except Probed as probed:
                return probed.sigmas, probed.timesteps
        raise AssertionError("the stock pipeline did not set its schedule")


class FluxAdapter(Adapter):
    """`FluxPipeline` behind the sampler's contract."""

    def __init__(self, pipe: FluxPipeline, max_sequence_length: int = 512) -> None:
        self.pipe = pipe
        self.max_sequence_length = max_sequence_length
        vae = pipe.vae.config
        self.space = LatentSpace(
            vae.latent_channels, pipe.vae_scale_factor, vae.scaling_factor, vae.shift_factor or 0.0
        )

    @torch.no_grad()
    def encode(self, prompt: str, batch: int) -> dict[str, Any]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompt, None, num_images_per_prompt=batch, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def noise(self, generators: list[torch.Generator], height: int, width: int) -> torch.Tensor:
        shape = (len(generators), self.space.channels, height // self.space.factor, width // self.space.factor)
        return randn_tensor(shape, generator=generators, device=self.pipe._execution_device, dtype=self._dtype)

    def denoise(
        self,
        stage: Stage,
        latents: torch.Tensor,
        encoded: dict[str, Any],
        guidance_scale: float | None,
        on_step: OnStep,
    ) -> torch.Tensor:
        def callback(pipe: FluxPipeline, step: int, timestep: torch.Tensor, kwargs: dict) -> dict:
            on_step(step, self._unpack(kwargs["latents"], stage))
            return kwargs

        schedule = {"sigmas": list(stage.sigmas[:-1])} if stage.is_tail else {}
        swap = swapped_scheduler(self.pipe, identity_shift(self.pipe.scheduler)) if stage.is_tail else nullcontext()
        guidance = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
        try:
            with swap:
                packed = self.pipe(
                    **encoded,
                    **schedule,
                    **guidance,
                    num_inference_steps=stage.num_steps,
                    height=stage.height,
                    width=stage.width,
                    latents=self._pack(latents),
                    output_type="latent",
                    callback_on_step_end=callback,
                    return_dict=False,
                )[0]
        finally:
            self.pipe.maybe_free_model_hooks()
        return self._unpack(packed, stage)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image]:
        decoded = self.pipe.vae.decode(self.space.to_raw(latents), return_dict=False)[0]
        return self.pipe.image_processor.postprocess(decoded, output_type="pil")

    @torch.no_grad()
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        pixels = self.pipe.image_processor.preprocess(images).to(self.pipe._execution_device, self.pipe.vae.dtype)
        return self.space.to_scaled(self.pipe.vae.encode(pixels).latent_dist.mode()).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.pipe.transformer.dtype

    def _pack(self, grid: torch.Tensor) -> torch.Tensor:
        return self.pipe._pack_latents(grid, *grid.shape)

    def _unpack(self, packed: torch.Tensor, stage: Stage) -> torch.Tensor:
        return self.pipe._unpack_latents(packed, stage.height, stage.width, self.space.factor)


def _weightless_pipeline(scheduler: dict[str, Any], vae_factor: int) -> FluxPipeline:
    """A FluxPipeline of the real class that can set schedules and nothing else."""
    transformer = FluxTransformer2DModel(
        in_channels=4,
        num_layers=0,
        num_single_layers=0,
        attention_head_dim=4,
        num_attention_heads=1,
        joint_attention_dim=1,
        pooled_projection_dim=1,
        axes_dims_rope=(0, 2, 2),
    )
    pipe = FluxPipeline(
        scheduler=probing(FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler))),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.vae_scale_factor = vae_factor
    return pipe
