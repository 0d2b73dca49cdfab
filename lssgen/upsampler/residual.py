"""LatentUpsampler: a small residual network that enlarges latents in latent space (arXiv 2507.16154, section 3).

The paper's doubles, and so does ours, by the same layout. Doubled latents made smaller again decode to a blur, since
fine texture is in patterns of latents that resampling averages away. So ours may have layers besides (`Between`) that
answer for any size up to the double.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from lssgen.upsampler.base import Upsampler

CELL = 8  # points of a sketch along a latent pixel's side
BEFORE = 2  # blocks of `Between` at the small size


def group_norm(groups: int, channels: int, eps: float) -> nn.Module:
    """GroupNorm, which sees the whole latent; with 0 groups nothing, so that a network stays local."""
    return nn.GroupNorm(groups, channels, eps=eps) if groups else nn.Identity()


class UpsamplerBlock(nn.Module):
    """Pre-activation residual block; with `up` its first convolution and its skip double the size."""

    def __init__(
        self, in_channels: int, out_channels: int, up: bool, norm_num_groups: int, interpolate: str = "bilinear"
    ) -> None:
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
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode=self.interpolate)
        return self.skip_proj(x) + F.silu(self.conv2(self.norm2(h)))


class Between(nn.Module):
    """Features of small latents to latents of any size, by way of a sketch.

    Between grids that do not fit, what a latent pixel tells of its patch moves by a part of a patch, and falls to two.
    No interpolation of latents or features does that. So the features are drawn as a picture of a few channels with
    CELL x CELL points for each latent pixel, which is enlarged as pictures are, and read again patch by patch.

    Args:
        in_channels: of the features.
        out_channels: of the latents.
        widths: of the residual blocks after the sketch.
        sketch_channels: of the sketch.
        norm_num_groups: see `group_norm`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: tuple[int, ...], sketch_channels: int, norm_num_groups: int
    ) -> None:
        super().__init__()
        points = sketch_channels * CELL**2
        self.before = _blocks((in_channels,) * (BEFORE + 1), norm_num_groups)
        self.draw = nn.Conv2d(in_channels, points, 3, padding=1)
        self.read = nn.Conv2d(points + 1, widths[0], 3, padding=1)
        self.after = _blocks((widths[0], *widths), norm_num_groups)
        self.norm_out = group_norm(norm_num_groups, widths[-1], 1e-5)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, *size)."""
        ratio = math.sqrt(size[0] * size[1] / (x.shape[-2] * x.shape[-1]))
        sketch = F.pixel_shuffle(self.draw(self.before(x)), CELL)
        large = F.interpolate(sketch.float(), (CELL * size[0], CELL * size[1]), mode="bicubic")
        x = F.pixel_unshuffle(large.to(sketch.dtype), CELL)
        x = torch.cat([x, torch.full_like(x[:, :1], 2.0 / ratio - 1.0)], 1)  # 1 for the same size, 0 for the double
        return self.conv_out(F.silu(self.norm_out(self.after(self.read(x)))))


def _blocks(widths: tuple[int, ...], norm_num_groups: int) -> nn.Sequential:
    """Blocks that keep the size, from each width to the next."""
    return nn.Sequential(
        *(UpsamplerBlock(a, b, up=False, norm_num_groups=norm_num_groups) for a, b in pairwise(widths))
    )


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
        between_channels: tuple[int, ...],
        sketch_channels: int,
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
        self.shared = is_up_samples.index(True)  # blocks before the doubling, for all sizes
        if between_channels:
            self.between = Between(
                widths[self.shared], out_channels, between_channels, sketch_channels, norm_num_groups
            )

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, *size)."""
        doubled = (2 * x.shape[-2], 2 * x.shape[-1])
        x = self.conv_in(x)
        for block in self.up_blocks[: self.shared]:
            x = block(x)
        if size != doubled:
            return self.between(x, size)
        for block in self.up_blocks[self.shared :]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LatentUpsampler(Upsampler):
    """Enlarges scaled latents: (B, C, h, w) -> (B, C, 2h, 2w), or with `between_channels` to any size up to that.

    557,648 parameters at 16 channels with widths (128, 64), 136,356 at 4 channels with (64, 32). An upsampler belongs
    to the VAE whose latents it was trained on, not to a pipeline: `vae` names it, and latents are the *scaled* ones.

    Args:
        in_channels, out_channels: latent channels of the VAE.
        block_out_channels: width of each residual block.
        strides: stride of each block's first convolution, 2 where `is_up_samples`.
        is_up_samples: which blocks double the size.
        norm_num_groups: groups of every GroupNorm; divides every width. 0: no norms; then an output depends on its
            neighbourhood alone, so that tiles on the same grid equal the whole.
        act_fn: only "silu".
        interpolate: how the skip of a doubling block is enlarged.
        vae: name of the VAE it was trained for, or "".
        between_channels: widths of the blocks that answer for other sizes than the double, see `Between`; none: it
            only doubles.
        sketch_channels: of their sketch.

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
        between_channels: tuple[int, ...] = (),
        sketch_channels: int = 4,
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
            in_channels,
            out_channels,
            tuple(block_out_channels),
            tuple(is_up_samples),
            norm_num_groups,
            interpolate,
            tuple(between_channels),
            sketch_channels,
        )

    @property
    def any_ratio(self) -> bool:
        """Whether it answers for other sizes than the double."""
        return bool(self.config.between_channels)

    @property
    def last_layers(self) -> dict[str, nn.Conv2d]:
        """Of what doubles and, of `any_ratio`, of what answers for the ratios between."""
        found = {"doubling": self.upsampler.conv_out}
        return found | ({"between": self.upsampler.between.conv_out} if self.any_ratio else {})

    def forward(self, latents: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, *size), scaled latents; the double by default.

        Raises:
            ValueError: if `size` is not from (h, w) to (2h, 2w), or not the double though it is not of `any_ratio`.
        """
        return self.upsampler(latents, self.checked(latents, size))
