"""Z-Image and Z-Image Turbo. Flow matching on a float32 grid, prompts as a list of embeddings of their own lengths."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin, ZImagePipeline, ZImageTransformer2DModel

from lssgen.families.base import Adapter, dit_flops, is_guided, keyed


class ZImageAdapter(Adapter):
    """`ZImagePipeline`. Guidance adds its scale to the prompt's own prediction: it acts above 0; Turbo runs at 0."""

    patch = 2
    guided_above = 0.0
    noise_dtype = torch.float32

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> ZImagePipeline:
        transformer = ZImageTransformer2DModel(
            in_channels=1, dim=6, n_layers=0, n_refiner_layers=0, n_heads=1, n_kv_heads=1, cap_feat_dim=1,
            axes_dims=[2, 2, 2], axes_lens=[1, 1, 1],
        )  # fmt: skip
        return ZImagePipeline(scheduler, None, None, None, transformer)

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        latents = torch.zeros(1, 1, height, width)
        return {"prompt_embeds": [torch.zeros(1, 1)], "latents": latents, "guidance_scale": 0.0}

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """12 d^2 weights a token and layer; the refiners see image and text apart."""
        d, image = config["dim"], height * width // 4
        refined = dit_flops(image, d, config["n_refiner_layers"], 12)
        refined += dit_flops(text_tokens, d, config["n_refiner_layers"], 12)
        return refined + dit_flops(image + text_tokens, d, config["n_layers"], 12)

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            [prompt] * batch,
            do_classifier_free_guidance=is_guided(guidance_scale, self.guided_above),
            negative_prompt=[negative_prompt] * batch,
            max_sequence_length=self.max_sequence_length,
        )
        return keyed("prompt_embeds negative_prompt_embeds", encoded)
