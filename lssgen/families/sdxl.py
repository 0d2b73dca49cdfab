"""SDXL and what is built on it: Playground v2.5, Turbo, LCM. The VAE may be in half precision that overflows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline
from PIL.Image import Image

from lssgen.families.base import is_guided, keyed
from lssgen.families.sd15 import tiny_unet
from lssgen.families.unet import UNetAdapter


class SDXLAdapter(UNetAdapter):
    """`StableDiffusionXLPipeline`. Each stage's size is also its original and target size, the stock default."""

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(None, None, None, None, None, tiny_unet(), scheduler, add_watermarker=False)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "pooled_prompt_embeds": torch.zeros(1, 1),
            "guidance_scale": 1.0,
        }

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            prompt,
            num_images_per_prompt=batch,
            do_classifier_free_guidance=is_guided(guidance_scale),
            negative_prompt=negative_prompt or None,
        )
        names = "prompt_embeds negative_prompt_embeds pooled_prompt_embeds negative_pooled_prompt_embeds"
        return keyed(names, encoded)

    def to_raw(self, scaled: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(scaled)
        return super().to_raw(scaled) if mean is None else scaled * std / self.pipe.vae.config.scaling_factor + mean

    def to_scaled(self, raw: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(raw)
        return super().to_scaled(raw) if mean is None else (raw - mean) * self.pipe.vae.config.scaling_factor / std

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, *, finish: bool = True) -> list[Image]:
        with _full_precision(self.pipe.vae):
            return super().decode(latents, finish=finish)

    def finish(self, decoded: torch.Tensor) -> list[Image]:
        return super().finish(self.pipe.watermark.apply_watermark(decoded) if self.pipe.watermark else decoded)

    @torch.no_grad()
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        with _full_precision(self.pipe.vae):
            return super().encode_images(images)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Per-channel mean and deviation, which Playground's VAE configuration has."""
        config = self.pipe.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return None, None
        return tuple(torch.tensor(v).view(1, -1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))


@contextmanager
def _full_precision(vae: AutoencoderKL) -> Iterator[None]:
    """SDXL's own VAE overflows in float16; its configuration says so, and the stock call widens it as this does."""
    widen = vae.dtype == torch.float16 and vae.config.force_upcast
    if widen:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if widen:
            vae.to(torch.float16)
