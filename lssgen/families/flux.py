"""FLUX.1: dev, schnell, Krea, and the embedded model. Flow matching on packed latents, shift by token count."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, SchedulerMixin

from lssgen.families.base import Adapter, dit_flops
from lssgen.schedule import Stage


class FluxAdapter(Adapter):
    """`FluxPipeline`. Guidance is an input of the transformer (dev) or built in (schnell); no negative prompt."""

    patch = 2

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> FluxPipeline:
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
        return FluxPipeline(scheduler, None, None, None, None, None, transformer)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "pooled_prompt_embeds": torch.zeros(1, 1),
            "latents": torch.zeros(1, height * width // 4, 4),
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """12 d^2 weights a token and layer, in both kinds of block."""
        width_of_model = config["num_attention_heads"] * config["attention_head_dim"]
        layers = config["num_layers"] + config["num_single_layers"]
        return dit_flops(height * width // 4 + text_tokens, width_of_model, layers, 12)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompt, None, num_images_per_prompt=batch, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def pack(self, grid: torch.Tensor) -> torch.Tensor:
        return self.pipe._pack_latents(grid, *grid.shape)

    def unpack(self, latents: torch.Tensor, stage: Stage) -> torch.Tensor:
        return self.pipe._unpack_latents(latents, stage.height, stage.width, self.space.factor)
