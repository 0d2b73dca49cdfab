"""Lumina Image 2.0. Flow matching on a grid; guidance keeps the length of the prompt's own prediction."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel, SchedulerMixin

from lssgen.families.base import Adapter, dit_flops, is_guided, keyed


class Lumina2Adapter(Adapter):
    """`Lumina2Pipeline`, with its own system prompt."""

    patch = 2

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> Lumina2Pipeline:
        transformer = Lumina2Transformer2DModel(
            sample_size=2, in_channels=1, hidden_size=6, num_layers=0, num_refiner_layers=0, num_attention_heads=1,
            num_kv_heads=1, multiple_of=1, axes_dim_rope=(2, 2, 2), axes_lens=(1, 1, 1), cap_feat_dim=1,
        )  # fmt: skip
        return Lumina2Pipeline(transformer, scheduler, None, None, None)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "prompt_attention_mask": torch.ones(1, 1, dtype=torch.long),
            "latents": torch.zeros(1, 16, height, width),  # the stock shift reads the channels, always 16
            "guidance_scale": 1.0,
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """Grouped attention 2 d^2 + 2 d^2 g with g key heads a query head, gated feed-forward 12 d^2."""
        d, image = config["hidden_size"], height * width // 4
        weights = 14 + 2 * config["num_kv_heads"] / config["num_attention_heads"]
        refined = dit_flops(image, d, config["num_refiner_layers"], weights)
        refined += dit_flops(text_tokens, d, config["num_refiner_layers"], weights)
        return refined + dit_flops(image + text_tokens, d, config["num_layers"], weights)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            prompt,
            is_guided(guidance_scale),
            negative_prompt=negative_prompt or None,
            num_images_per_prompt=batch,
            max_sequence_length=self.max_sequence_length,
        )
        names = "prompt_embeds prompt_attention_mask negative_prompt_embeds negative_prompt_attention_mask"
        return keyed(names, encoded)
