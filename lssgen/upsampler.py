"""LatentUpsampler: a small residual network that doubles latents in latent space (arXiv 2507.16154, section 3)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lssgen.hub import brief
from lssgen.latents import resize


def group_norm(groups: int, channels: int, eps: float) -> nn.Module:
    """GroupNorm, which sees the whole latent; with 0 groups nothing, so that a network stays local."""
    return nn.GroupNorm(groups, channels, eps=eps) if groups else nn.Identity()


class UpsamplerBlock(nn.Module):
    """Pre-activation residual block; with `up` its first convolution and its skip double the size."""

    def __init__(self, in_channels: int, out_channels: int, up: bool, norm_num_groups: int, interpolate: str) -> None:
        super().__init__()
        self.up, self.interpolate = up, interpolate
        self.norm1 = group_norm(norm_num_groups, in_channels, 1e-6)
        self.conv1 = (
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
            if up
            else nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.norm2 = group_norm(norm_num_groups, out_channels, 1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip_proj = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, 2h, 2w) with `up`, else (B, out, h, w)."""
        h = F.silu(self.conv1(self.norm1(x)))
        h = F.silu(self.conv2(self.norm2(h)))
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode=self.interpolate)
        return self.skip_proj(x) + h


class UpsamplerNet(nn.Module):
    """The network itself, held under the key `upsampler` of the published checkpoint layout."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block_out_channels: tuple[int, ...],
        is_up_samples: tuple[bool, ...],
        norm_num_groups: int,
        interpolate: str,
    ) -> None:
        super().__init__()
        widths = (block_out_channels[0], *block_out_channels)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpsamplerBlock(widths[i], widths[i + 1], up, norm_num_groups, interpolate)
            for i, up in enumerate(is_up_samples)
        )
        self.norm_out = group_norm(norm_num_groups, widths[-1], 1e-5)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LatentUpsampler(ModelMixin, ConfigMixin):
    """Doubles scaled latents: (B, C, h, w) -> (B, C, 2h, 2w).

    557,648 parameters at 16 channels with widths (128, 64), 136,356 at 4 channels with (64, 32). An upsampler belongs
    to the VAE whose latents it was trained on, not to a pipeline: `vae` names it, and latents are the *scaled* ones.

    Args:
        in_channels, out_channels: latent channels of the VAE.
        block_out_channels: width of each residual block.
        strides: stride of each block's first convolution, 2 where `is_up_samples`.
        is_up_samples: which blocks double the size.
        norm_num_groups: groups of every GroupNorm; divides every width. 0: no norms; then an output depends on its
            neighbourhood alone, so that tiles equal the whole.
        act_fn: only "silu".
        interpolate: how the skip of a doubling block is enlarged.
        vae: name of the VAE it was trained for, or "".

    Raises:
        ValueError: if the lists differ in length, or a stride or activation is not supported.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        block_out_channels: tuple[int, ...] = (128, 64),
        strides: tuple[int, ...] = (2, 1),
        is_up_samples: tuple[bool, ...] = (True, False),
        norm_num_groups: int = 32,
        act_fn: str = "silu",
        interpolate: str = "bilinear",
        vae: str = "",
    ) -> None:
        super().__init__()
        if not len(block_out_channels) == len(strides) == len(is_up_samples) > 0:
            raise ValueError("block_out_channels, strides and is_up_samples need one entry for each block")
        if any(stride != (2 if up else 1) for stride, up in zip(strides, is_up_samples, strict=True)):
            raise ValueError(f"strides are {list(strides)}; each must be 2 where is_up_samples is true, else 1")
        if sum(is_up_samples) != 1:
            raise ValueError(f"is_up_samples is {list(is_up_samples)}; exactly one block must double the size")
        if act_fn != "silu":
            raise ValueError(f"act_fn is {act_fn!r}; it must be 'silu'")
        self.upsampler = UpsamplerNet(
            in_channels, out_channels, tuple(block_out_channels), tuple(is_up_samples), norm_num_groups, interpolate
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w), scaled latents."""
        return self.upsampler(latents)

    @torch.no_grad()
    def upsample(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, height, width): doubled until large enough, then made smaller with antialiasing.

        A ratio between 1 and 2 takes one doubling, 3 and 4 take two.

        Raises:
            ValueError: if the latents have another number of channels than this network.
        """
        if latents.shape[1] != self.config.in_channels:
            raise ValueError(
                f"the latents have {latents.shape[1]} channels; this upsampler is for {self.config.in_channels}"
            )
        enlarged = latents.to(self.dtype)
        while enlarged.shape[-2] < height or enlarged.shape[-1] < width:
            enlarged = self(enlarged)
        return resize(enlarged.to(latents.dtype), height, width, "bicubic")


def load_upsampler(
    folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> LatentUpsampler:
    """The upsampler of a folder, ours or of the published layout, ready to be used; on the CPU by default.

    Raises:
        ValueError: if it cannot be loaded, or its file lacks a weight.
    """
    try:
        model, found = LatentUpsampler.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        lacking = found["missing_keys"]
        if not lacking:
            return model.to(device or torch.device("cpu")).eval()
    except Exception as error:  # diffusers and safetensors each raise their own kinds
        raise ValueError(f"the upsampler at {folder} cannot be loaded ({brief(error)})") from error
    raise ValueError(f"the upsampler at {folder} cannot be loaded (its file lacks {lacking[0]})")
