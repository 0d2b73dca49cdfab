"""Stable Diffusion 3 and 3.5. Flow matching on a grid, a static shift, classifier-free guidance in one batch."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin, SD3Transformer2DModel, StableDiffusion3Pipeline

from lssgen.families.base import Adapter, dit_flops, is_guided, keyed

CLIP_TOKENS = 77  # come before T5's


class SD3Adapter(Adapter):
    """`StableDiffusion3Pipeline`."""

    patch = 2

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> StableDiffusion3Pipeline:
        transformer = SD3Transformer2DModel(
            sample_size=2, patch_size=2, in_channels=1, num_layers=0, attention_head_dim=4, num_attention_heads=1,
            joint_attention_dim=1, caption_projection_dim=4, pooled_projection_dim=1, out_channels=1,
            pos_embed_max_size=1,
        )  # fmt: skip
        return StableDiffusion3Pipeline(transformer, scheduler, *[None] * 7)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "pooled_prompt_embeds": torch.zeros(1, 1),
            "latents": torch.zeros(1, 1, height, width),
            "guidance_scale": 1.0,
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """12 d^2 weights a token and layer in both streams; SD3.5 medium's extra attention on image tokens."""
        d = config["num_attention_heads"] * config["attention_head_dim"]
        image, text = height * width // 4, CLIP_TOKENS + text_tokens
        extra = len(config.get("dual_attention_layers") or ())
        return dit_flops(image + text, d, config["num_layers"], 12) + dit_flops(image, d, extra, 4)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            prompt, None, None,
            num_images_per_prompt=batch,
            do_classifier_free_guidance=is_guided(guidance_scale),
            negative_prompt=negative_prompt or None,
            max_sequence_length=self.max_sequence_length,
        )  # fmt: skip
        names = "prompt_embeds negative_prompt_embeds pooled_prompt_embeds negative_pooled_prompt_embeds"
        return keyed(names, encoded)
