"""Sana. Flow matching on a float32 grid of a 32-times deep-compression autoencoder, by the stock DPM-Solver."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel, SchedulerMixin
from PIL.Image import Image

from lssgen.families.base import Adapter, is_guided, keyed


class SanaAdapter(Adapter):
    """`SanaPipeline`, its prompt instruction included. Sizes are met exactly, not moved into the stock bins."""

    noise_dtype = torch.float32
    more_arguments: ClassVar[dict[str, Any]] = {"use_resolution_binning": False}

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> SanaPipeline:
        transformer = SanaTransformer2DModel(
            in_channels=1, out_channels=1, num_layers=0, num_attention_heads=1, attention_head_dim=1,
            num_cross_attention_heads=1, cross_attention_head_dim=1, cross_attention_dim=1, caption_channels=1,
            sample_size=1,
        )  # fmt: skip
        return SanaPipeline(None, None, None, transformer, scheduler)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        mask = torch.ones(1, 1, dtype=torch.long)
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "prompt_attention_mask": mask,
            "guidance_scale": 1.0,
            **cls.more_arguments,
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """Linear attention: 4 d^2 and 4 d p; attention to the text; a feed-forward with a depthwise convolution."""
        p = config["attention_head_dim"]
        d, tokens = config["num_attention_heads"] * p, height * width
        ratio = config["mlp_ratio"]
        own = 2 * (4 * d**2 + 2 * d * p) * tokens
        text = 2 * 2 * d**2 * (tokens + text_tokens) + 4 * tokens * text_tokens * d
        forward = 2 * (3 * ratio * d**2 + 9 * 2 * ratio * d) * tokens
        return float(config["num_layers"] * (own + text + forward))

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        instruction = inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default
        encoded = self.pipe.encode_prompt(
            prompt,
            is_guided(guidance_scale),
            negative_prompt=negative_prompt,
            num_images_per_prompt=batch,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
        )
        names = "prompt_embeds prompt_attention_mask negative_prompt_embeds negative_prompt_attention_mask"
        # the stock default is an empty negative prompt, which it refuses beside embeddings
        return {"negative_prompt": None, **keyed(names, encoded)}

    @torch.no_grad()
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        """By the autoencoder itself, which is deterministic."""
        pixels = self.pipe.image_processor.preprocess(images).to(self.pipe._execution_device, self.pipe.vae.dtype)
        return self.to_scaled(self.pipe.vae.encode(pixels).latent).to(torch.float32)
