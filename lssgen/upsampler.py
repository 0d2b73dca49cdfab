"""LatentUpsampler: a small residual network that enlarges latents in latent space (arXiv 2507.16154, section 3).

The paper's doubles. Doubled latents made smaller again decode to a blur, since fine texture is in patterns of latents
that resampling averages away. So ours can be asked for any size up to the double: the features are resampled inside,
and the layers after that are told where between the doubled grid's points each of them lies.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lssgen.hub import brief
from lssgen.latents import resize

PHASES = 4  # channels that say where a point lies between those of the doubled grid


def group_norm(groups: int, channels: int, eps: float) -> nn.Module:
    """GroupNorm, which sees the whole latent; with 0 groups nothing, so that a network stays local."""
    return nn.GroupNorm(groups, channels, eps=eps) if groups else nn.Identity()


def phases(height: int, width: int, doubled: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Where between its points a `height` x `width` grid samples the `doubled` one: (B, PHASES, height, width) as
    `like` (B, ...). For each axis sin and cos - 1 of 2 pi times the position; all 0 on the points themselves."""

    def axis(count: int, points: int) -> list[torch.Tensor]:
        places = (torch.arange(count, device=like.device) + 0.5) * points / count - 0.5
        turns = 2 * math.pi * (places - places.round())
        return [turns.sin(), turns.cos() - 1.0]

    rows = [wave.view(-1, 1).expand(height, width) for wave in axis(height, doubled[0])]
    columns = [wave.view(1, -1).expand(height, width) for wave in axis(width, doubled[1])]
    return torch.stack(rows + columns).to(like.dtype).expand(len(like), -1, -1, -1)


class UpsamplerBlock(nn.Module):
    """Pre-activation residual block; with `up` its first convolution and its skip double the size.

    With `any_ratio` it resamples what it doubled to the size asked for, and adds `phases` to the second convolution's
    input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, up: bool, norm_num_groups: int, interpolate: str, any_ratio: bool
    ) -> None:
        super().__init__()
        self.up, self.interpolate, self.any_ratio = up, interpolate, up and any_ratio
        self.norm1 = group_norm(norm_num_groups, in_channels, 1e-6)
        self.conv1 = (
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
            if up
            else nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.norm2 = group_norm(norm_num_groups, out_channels, 1e-6)
        self.conv2 = nn.Conv2d(out_channels + PHASES * self.any_ratio, out_channels, 3, padding=1)
        self.skip_proj = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, *size) with `up`, else (B, out, h, w)."""
        h = F.silu(self.conv1(self.norm1(x)))
        doubled = h.shape[-2:]
        if self.up:
            x = F.interpolate(x, size, mode=self.interpolate)
            h = h if size == doubled else F.interpolate(h, size, mode="bilinear")
        h = self.norm2(h)
        if self.any_ratio:
            h = torch.cat([h, phases(*size, doubled, h)], 1)
        return self.skip_proj(x) + F.silu(self.conv2(h))


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
        any_ratio: bool,
    ) -> None:
        super().__init__()
        self.any_ratio = any_ratio
        widths = (block_out_channels[0], *block_out_channels)
        self.conv_in = nn.Conv2d(in_channels + any_ratio, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpsamplerBlock(widths[i], widths[i + 1], up, norm_num_groups, interpolate, any_ratio)
            for i, up in enumerate(is_up_samples)
        )
        self.norm_out = group_norm(norm_num_groups, widths[-1], 1e-5)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, *size)."""
        if self.any_ratio:  # a channel more says how far from doubling: 0, and 1 for the same size
            ratio = math.sqrt(size[0] * size[1] / (x.shape[-2] * x.shape[-1]))
            x = torch.cat([x, torch.full_like(x[:, :1], 2.0 / ratio - 1.0)], 1)
        x = self.conv_in(x)
        for block in self.up_blocks:
            x = block(x, size)
        return self.conv_out(F.silu(self.norm_out(x)))


class LatentUpsampler(ModelMixin, ConfigMixin):
    """Enlarges scaled latents: (B, C, h, w) -> (B, C, 2h, 2w), or with `any_ratio` to any size up to that.

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
        any_ratio: whether it can be asked for other sizes than the double; PHASES + 1 input channels more.

    Raises:
        ValueError: if the lists differ in length, or a stride, activation or interpolation is not supported.
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
        any_ratio: bool = False,
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
        if any_ratio and interpolate != "bilinear":
            raise ValueError(f"interpolate is {interpolate!r}; with any_ratio it must be 'bilinear'")
        self.upsampler = UpsamplerNet(
            in_channels,
            out_channels,
            tuple(block_out_channels),
            tuple(is_up_samples),
            norm_num_groups,
            interpolate,
            any_ratio,
        )

    def forward(self, latents: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, *size), scaled latents; the double by default.

        Raises:
            ValueError: if `size` is not from (h, w) to (2h, 2w), or, without `any_ratio`, not the double.
        """
        h, w = latents.shape[-2:]
        size = tuple(size) if size else (2 * h, 2 * w)
        if not (h <= size[0] <= 2 * h and w <= size[1] <= 2 * w):
            raise ValueError(f"the size is {size}; it must be from {(h, w)} to {(2 * h, 2 * w)}")
        if not self.config.any_ratio and size != (2 * h, 2 * w):
            raise ValueError(f"the size is {size}; this upsampler only doubles, to {(2 * h, 2 * w)}")
        return self.upsampler(latents, size)

    @torch.no_grad()
    def upsample(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, height, width) in hops of 2 at most: one for a ratio of up to 2, two up to 4.

        The last hop goes to the size itself with `any_ratio`, else to the double and, antialiased, back to the size.

        Raises:
            ValueError: if the latents have another number of channels than this network.
        """
        if latents.shape[1] != self.config.in_channels:
            raise ValueError(
                f"the latents have {latents.shape[1]} channels; this upsampler is for {self.config.in_channels}"
            )
        enlarged = latents.to(self.dtype)
        while enlarged.shape[-2] < height or enlarged.shape[-1] < width:
            h, w = enlarged.shape[-2:]
            wanted = max(h, min(2 * h, height)), max(w, min(2 * w, width))
            enlarged = self(enlarged, wanted if self.config.any_ratio else None)
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
