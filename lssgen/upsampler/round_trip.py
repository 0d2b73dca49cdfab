"""RoundTripUpsampler: the pixel round trip by a small autoencoder's own layers, without the pixels.

To decode, enlarge and encode is a costly way to enlarge latents, most of all at its finest: a small autoencoder spends
four fifths of it on layers that work on pixels, or on every second of them. Here the decoder ends at features of 2 x 2
pixels and the encoder begins at features of 4 x 4. Between them the picture is a sketch of a few channels, drawn and
read by one convolution each, and enlarged as pictures are, by any ratio. All of it can be trained on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from torch import nn

from lssgen.upsampler.base import Upsampler

DRAWN, READ = 2, 4  # pixels of a side, of the small and of the large picture, that a feature tells of
CLAMP = 3.0  # of latents, softly, as the decoder has it


class Residual(nn.Module):
    """Three convolutions beside the identity, which they leave at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) -> the same shape."""
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class RoundTripUpsampler(Upsampler):
    """Enlarges scaled latents: (B, C, h, w) -> (B, C, H, W), any size from their own to the double.

    1,980,644 parameters at 4 channels. It has no norms: an output depends on its neighbourhood alone.

    Args:
        in_channels: latent channels of the autoencoder.
        encoder_block_out_channels, decoder_block_out_channels, num_encoder_blocks, num_decoder_blocks, act_fn: of the
            AutoencoderTiny whose layers it has, three levels at least; each level but one halves the size.
        sketch_channels: of the picture between them.
        blocks: residual blocks that follow the reading of it.
        vae: name of the VAE it was trained for, or "".

    Raises:
        ValueError: if there are fewer levels, or the lists differ in length.
    """

    LEARNING_RATE = 1e-4  # ten times as much ruined within a hundred steps what it began with
    DECODED = 1  # it costs as much itself
    any_ratio = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        act_fn: str = "relu",
        sketch_channels: int = 8,
        blocks: int = 1,
        vae: str = "",
    ) -> None:
        super().__init__()
        lists = (encoder_block_out_channels, num_encoder_blocks, decoder_block_out_channels, num_decoder_blocks)
        if len({len(each) for each in lists}) > 1 or len(num_encoder_blocks) < 3:
            raise ValueError("blocks and channels of encoder and decoder need one entry for each level, 3 or more")
        decoder = DecoderTiny(in_channels, 3, num_decoder_blocks, decoder_block_out_channels, 2, act_fn, "nearest")
        encoder = EncoderTiny(3, in_channels, num_encoder_blocks, encoder_block_out_channels, act_fn)
        self.factor = 2 ** (len(num_encoder_blocks) - 1)
        self.decode, self.encode = coarse_decoder(decoder.layers), coarse_encoder(encoder.layers)
        width = encoder_block_out_channels[1]
        self.draw = nn.Conv2d(decoder_block_out_channels[-2], sketch_channels * DRAWN**2, 3, padding=1)
        self.read = nn.Conv2d(sketch_channels * READ**2 + 1, width, 3, padding=1)
        self.refine = nn.Sequential(*(Residual(width) for _ in range(blocks)))

    @property
    def last_layers(self) -> dict[str, nn.Conv2d]:
        """One, for all ratios."""
        return {"all": self.encode[-1]}

    def forward(self, latents: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, *size), scaled latents; the double by default.

        Raises:
            ValueError: if `size` is not from (h, w) to (2h, 2w).
        """
        size = self.checked(latents, size)
        x = self.sketch(self.features(latents), size)
        ratio = math.sqrt(size[0] * size[1] / (latents.shape[-2] * latents.shape[-1]))
        x = torch.cat([x, torch.full_like(x[:, :1], 2.0 / ratio - 1.0)], 1)  # 1 for the same size, 0 for the double
        return self.encode(self.refine(self.read(x)))

    def features(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder makes of latents (B, C, h, w): (B, width, h f / 2, w f / 2), f the autoencoder's factor."""
        return self.decode(torch.tanh(latents / CLAMP) * CLAMP)

    def sketch(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """It for latents of `size` (H, W), the pixels of a feature together: (B, channels 16, H f / 4, W f / 4)."""
        drawn = F.pixel_shuffle(self.draw(features), DRAWN)
        large = F.interpolate(drawn.float(), [self.factor * side for side in size], mode="bicubic")
        return F.pixel_unshuffle(large.to(drawn.dtype), READ)


def coarse_decoder(layers: nn.Sequential) -> nn.Sequential:
    """Of a DecoderTiny those that work on features of DRAWN x DRAWN pixels and coarser ones."""
    return layers[: max(k for k, layer in enumerate(layers) if isinstance(layer, nn.Upsample))]


def coarse_encoder(layers: nn.Sequential) -> nn.Sequential:
    """Of an EncoderTiny those that work on features of READ x READ pixels and coarser ones."""
    halving = [k for k, layer in enumerate(layers) if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    return layers[halving[1] + 1 :]
