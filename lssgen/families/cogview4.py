"""CogView4. Flow matching on a float32 grid; its schedule is whole timesteps whose sigmas are shifted by the size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, SchedulerMixin

from lssgen.families.base import Adapter, dit_flops, is_guided, keyed


class CogView4Adapter(Adapter):
    """`CogView4Pipeline`. Each stage's size is also its original and target size, the stock default."""

    patch = 2
    noise_dtype = torch.float32

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> CogView4Pipeline:
        transformer = CogView4Transformer2DModel(
            in_channels=1, out_channels=1, num_layers=0, attention_head_dim=4, num_attention_heads=1, text_embed_dim=1,
            time_embed_dim=2, condition_dim=2, pos_embed_max_size=1, sample_size=2, rope_axes_dim=(1, 1),
        )  # fmt: skip
        return CogView4Pipeline(None, None, None, transformer, scheduler)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        latents = torch.zeros(1, 1, 1, 1)  # or the probe would draw some
        return {"prompt_embeds": torch.zeros(1, 1, 1), "latents": latents, "guidance_scale": 1.0}

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """12 d^2 weights a token and layer, shared by image and text."""
        d = config["num_attention_heads"] * config["attention_head_dim"]
        return dit_flops(height * width // 4 + text_tokens, d, config["num_layers"], 12)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            prompt,
            negative_prompt or None,
            is_guided(guidance_scale),
            num_images_per_prompt=batch,
            max_sequence_length=self.max_sequence_length,
        )
        return keyed("prompt_embeds negative_prompt_embeds", encoded)
