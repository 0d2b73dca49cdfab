"""Stable Diffusion 1.5. Its own PNDM scheduler warms up with steps no tail can repeat: Euler runs in both arms."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image

from lssgen.families.base import is_guided, keyed
from lssgen.families.unet import UNetAdapter


class SD15Adapter(UNetAdapter):
    """`StableDiffusionPipeline`, its safety checker included where it has one."""

    @classmethod
    def weightless(cls, scheduler: SchedulerMixin) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            None, None, None, tiny_unet(), scheduler, None, None, requires_safety_checker=False
        )

    @classmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        return {"prompt_embeds": torch.zeros(1, 1, 1), "guidance_scale": 1.0}

    @torch.no_grad()
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        encoded = self.pipe.encode_prompt(
            prompt, self.pipe._execution_device, batch, is_guided(guidance_scale), negative_prompt or None
        )
        return keyed("prompt_embeds negative_prompt_embeds", encoded)

    def finish(self, decoded: torch.Tensor) -> list[Image]:
        decoded, flagged = self.pipe.run_safety_checker(decoded, decoded.device, decoded.dtype)
        show = [not f for f in flagged] if flagged else [True] * len(decoded)
        return self.pipe.image_processor.postprocess(decoded, output_type="pil", do_denormalize=show)


def tiny_unet() -> UNet2DConditionModel:
    """The smallest one there is, for pipelines that only set schedules."""
    return UNet2DConditionModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(1,),
        layers_per_block=1,
        cross_attention_dim=1,
        attention_head_dim=1,
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
    )
