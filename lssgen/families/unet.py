"""What Stable Diffusion 1.5 and SDXL share: a UNet on a grid of latents, classifier-free guidance, 77 text tokens."""

from __future__ import annotations

from typing import Any

from lssgen.families.base import Adapter

TEXT_TOKENS = 77  # CLIP's


class UNetAdapter(Adapter):
    """Counts a UNet2DConditionModel's work from its configuration; the rest is a subclass's."""

    @classmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """Convolutions and attention of every block; embeddings and norms (well under 1 %) are left out."""
        widths = config["block_out_channels"]
        levels = len(widths)
        layers = _each(config["layers_per_block"], levels)
        depth = _each(config.get("transformer_layers_per_block") or 1, levels)
        attends = ["CrossAttn" in name for name in config["down_block_types"]]
        cross = config["cross_attention_dim"]
        pixels = [height * width / 4**level for level in range(levels)]
        total = _conv(config["in_channels"], widths[0], 3, pixels[0]) + _conv(
            widths[0], config["out_channels"], 3, pixels[0]
        )
        skips, c = [widths[0]], widths[0]
        for level in range(levels):  # down
            for _ in range(layers[level]):
                total += _resnet(c, widths[level], pixels[level])
                total += _attention(widths[level], pixels[level], depth[level], cross) if attends[level] else 0.0
                c = widths[level]
                skips.append(c)
            if level < levels - 1:
                total += _conv(c, c, 3, pixels[level + 1])
                skips.append(c)
        total += 2 * _resnet(c, c, pixels[-1])  # middle
        if config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
            total += _attention(c, pixels[-1], depth[-1], cross)
        for level in reversed(range(levels)):  # up
            for _ in range(layers[level] + 1):
                total += _resnet(c + skips.pop(), widths[level], pixels[level])
                total += _attention(widths[level], pixels[level], depth[level], cross) if attends[level] else 0.0
                c = widths[level]
            if level > 0:
                total += _conv(c, c, 3, pixels[level - 1])
        return total


def _each(value: Any, count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def _conv(channels_in: int, channels_out: int, side: int, pixels: float) -> float:
    return 2.0 * side**2 * channels_in * channels_out * pixels


def _resnet(channels_in: int, channels_out: int, pixels: float) -> float:
    skip = _conv(channels_in, channels_out, 1, pixels) if channels_in != channels_out else 0.0
    return _conv(channels_in, channels_out, 3, pixels) + _conv(channels_out, channels_out, 3, pixels) + skip


def _attention(width: int, tokens: float, layers: int, cross: int) -> float:
    """Projections in and out; in each layer self-attention, attention to the text, and a gated feed-forward."""
    own = 2 * 4 * width**2 * tokens + 4 * tokens**2 * width
    text = 2 * (2 * width**2 * tokens + 2 * cross * width * TEXT_TOKENS) + 4 * tokens * TEXT_TOKENS * width
    forward = 2 * 12 * width**2 * tokens
    return 2 * 2 * width**2 * tokens + layers * (own + text + forward)
