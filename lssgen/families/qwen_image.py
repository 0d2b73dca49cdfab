"""Qwen-Image. Flow matching on packed latents; a video VAE with statistics for each channel."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel, SchedulerMixin
from PIL.Image import Image

from lssgen.families.base import Adapter, dit_flops, is_guided
from lssgen.schedule import Stage


class QwenImageAdapter(Adapter):
    """`QwenImagePipeline`. `guidance_scale` is its true_cfg_scale; without a negative prompt a blank guides."""

    patch = 2
    guidance_argument = "true_cfg_scale"

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> QwenImagePipeline:
        transformer = QwenImageTransformer2DModel(
            in_channels=4, out_channels=1, num_layers=0, attention_head_dim=6, num_attention_heads=1,
            joint_attention_dim=1, axes_dims_rope=(2, 2, 2),
        )  # fmt: skip
        return QwenImagePipeline(scheduler, None, None, None, transformer)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "prompt_embeds_mask": torch.ones(1, 1, dtype=torch.long),
            "latents": torch.zeros(1, height * width // 4, 4),
            "true_cfg_scale": 1.0,
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """12 d^2 weights a token and layer, in each stream."""
        d = config["num_attention_heads"] * config["attention_head_dim"]
        return dit_flops(height * width // 4 + text_tokens, d, config["num_layers"], 12)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        more = {"num_images_per_prompt": batch, "max_sequence_length": self.max_sequence_length}
        embeds, mask = self.pipe.encode_prompt(prompt, **more)
        encoded = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
        if guidance_scale is not None and is_guided(guidance_scale):
            negative, negative_mask = self.pipe.encode_prompt(negative_prompt or " ", **more)
            encoded |= {"negative_prompt_embeds": negative, "negative_prompt_embeds_mask": negative_mask}
        return encoded

    def pack(self, grid: torch.Tensor) -> torch.Tensor:
        return self.pipe._pack_latents(grid, *grid.shape)

    def unpack(self, latents: torch.Tensor, stage: Stage) -> torch.Tensor:
        return self.pipe._unpack_latents(latents, stage.height, stage.width, self.space.factor)[:, :, 0]

    @property
    def latent_channels(self) -> int:
        return self.pipe.vae.config.z_dim

    def to_raw(self, scaled: torch.Tensor) -> torch.Tensor:
        mean, inverse = self._statistics(scaled)
        return scaled / inverse + mean

    def to_scaled(self, raw: torch.Tensor) -> torch.Tensor:
        mean, inverse = self._statistics(raw)
        return (raw - mean) * inverse

    def _decode(self, raw: torch.Tensor) -> torch.Tensor:
        return super()._decode(raw.unsqueeze(2))[:, :, 0]

    @torch.no_grad()
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        pixels = self.pipe.image_processor.preprocess(images).to(self.pipe._execution_device, self.pipe.vae.dtype)
        raw = self.pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mode()[:, :, 0]
        return self.to_scaled(raw).to(self.denoiser.dtype)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, 1 / deviation) of each channel, as the stock call computes them."""
        config = self.pipe.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean.to(like), 1.0 / std.to(like)
