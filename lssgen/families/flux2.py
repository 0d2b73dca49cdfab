"""FLUX.2 dev and klein. Flow matching on packed patches of 2 x 2 latents, normalised by the VAE's batch norm."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from lssgen.families.base import Adapter, dit_flops, is_guided
from lssgen.schedule import Stage


class Flux2Adapter(Adapter):
    """`Flux2Pipeline`. Guidance is an input of the transformer; no negative prompt.

    The scaled grid (B, 32, h, w) is the normalised patches laid out again: what the transformer sees, in another order.
    """

    patch = 2
    stock: type[DiffusionPipeline] = Flux2Pipeline

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> DiffusionPipeline:
        transformer = Flux2Transformer2DModel(
            in_channels=4, num_layers=0, num_single_layers=0, attention_head_dim=8, num_attention_heads=1,
            joint_attention_dim=1, axes_dims_rope=(2, 2, 2, 2),
        )  # fmt: skip
        return cls.stock(scheduler, None, None, None, transformer)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {
            "prompt_embeds": torch.zeros(1, 1, 1),
            "latents": torch.zeros(1, 4, height // 2, width // 2),
            "guidance_scale": 1.0,
        }

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """Attention 4 d^2 and a gated feed-forward 3 r d^2 a token and layer, in both kinds of block."""
        d = config["num_attention_heads"] * config["attention_head_dim"]
        layers = config["num_layers"] + config["num_single_layers"]
        return dit_flops(height * width // 4 + text_tokens, d, layers, 4 + 3 * config["mlp_ratio"])

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        return {"prompt_embeds": self._embeds(prompt, batch)}

    def _embeds(self, prompt: str, batch: int) -> torch.Tensor:
        more = {"num_images_per_prompt": batch, "max_sequence_length": self.max_sequence_length}
        return self.pipe.encode_prompt(prompt, **more)[0]

    def noise(
        self, generators: list[torch.Generator], height: int, width: int, device: torch.device | None = None
    ) -> torch.Tensor:
        side = self.space.factor * 2
        shape = (len(generators), 4 * self.space.channels, height // side, width // side)
        device = device or self.pipe._execution_device
        noise = randn_tensor(shape, generator=generators, device=device, dtype=self.denoiser.dtype)
        return self.pipe._unpatchify_latents(noise)

    def pack(self, grid: torch.Tensor) -> torch.Tensor:
        return self.pipe._patchify_latents(grid)

    def unpack(self, latents: torch.Tensor, stage: Stage) -> torch.Tensor:
        side = self.space.factor * 2
        patches = latents.mT.reshape(len(latents), -1, stage.height // side, stage.width // side)
        return self.pipe._unpatchify_latents(patches)

    def to_raw(self, scaled: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(scaled)
        return self.pipe._unpatchify_latents(self.pipe._patchify_latents(scaled) * std + mean)

    def to_scaled(self, raw: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(raw)
        return self.pipe._unpatchify_latents((self.pipe._patchify_latents(raw) - mean) / std)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, deviation) of each channel of a patch, the VAE's batch norm."""
        norm, epsilon = self.pipe.vae.bn, self.pipe.vae.config.batch_norm_eps
        std = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + epsilon)
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.to(like)


class Flux2KleinAdapter(Flux2Adapter):
    """`Flux2KleinPipeline`: classifier-free guidance, none where it is distilled; returns the VAE's own latents."""

    stock = Flux2KleinPipeline

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = {"prompt_embeds": self._embeds(prompt, batch)}
        if is_guided(guidance_scale) and not self.pipe.config.is_distilled:
            encoded["negative_prompt_embeds"] = self._embeds(negative_prompt, batch)
        return encoded
