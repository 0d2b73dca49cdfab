"""Begin a RoundTripUpsampler: an autoencoder's own layers, and two layers between them by least squares.

So it answers about as the pixel round trip does before any training, and training begins there. Neither of the two
needs more than a linear map for that: features of the decoder tell the pixels by one, and those tell the features of
the encoder well enough.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

from lssgen.latents import resize
from lssgen.training.vaes import Vae
from lssgen.upsampler import RoundTripUpsampler
from lssgen.upsampler.round_trip import DRAWN, coarse_decoder, coarse_encoder

CROPS = 48  # that the two layers are fitted on
RIDGE = 1e-5  # of the mean square of an input
KERNEL = 3
Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]


def begin(vae: Vae) -> RoundTripUpsampler:
    """One with the autoencoder's layers.

    Raises:
        ValueError: for an autoencoder that is not of TAESD's kind.
    """
    network, config = vae.network, vae.network.config
    blocks = [m for m in network.modules() if isinstance(m, AutoencoderTinyBlock)]
    plain = all(type(block) is AutoencoderTinyBlock for block in blocks)
    if not isinstance(network, AutoencoderTiny) or not plain or config.scaling_factor != 1:
        raise ValueError(
            "a round-trip upsampler is made of a plain AutoencoderTiny (TAESD's kind, but not taef2, whose blocks see "
            f"the whole picture); this {type(network).__name__} is none, take --size large"
        )
    names = ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks")
    settings = {name: tuple(config[name]) for name in names}
    model = RoundTripUpsampler(vae.channels, **settings, act_fn=config.act_fn, vae=vae.name)
    model.decode.load_state_dict(coarse_decoder(network.decoder.layers).state_dict())
    model.encode.load_state_dict(coarse_encoder(network.encoder.layers).state_dict())
    return model


@torch.no_grad()
def fit(model: RoundTripUpsampler, vae: Vae, pairs: Pairs) -> None:
    """Let it draw what the decoder makes of small latents, and read what the encoder makes of that enlarged.

    Args:
        model: as `begin` gives it, where the autoencoder is.
        vae: its autoencoder.
        pairs: pictures (3, H, W) in [-1, 1] and the same smaller, which may be of many sizes.

    Raises:
        ValueError: if what the autoencoder answers is not finite.
    """
    device = model.draw.weight.device
    pairs = [(whole.to(device), vae.encode(small[None].to(device))) for whole, small in pairs]
    pictures = [vae.decode(low).clamp(-1.0, 1.0) for _, low in pairs]
    colours = 3 * DRAWN**2  # outputs; the other channels of the sketch stay a random projection of the features
    features, squares = [model.features(low) for _, low in pairs], Squares()
    for known, picture in zip(features, pictures, strict=True):
        squares.add(known, F.pixel_unshuffle(picture, DRAWN))
    squares.solve(model.draw, slice(0, colours))
    layers = vae.network.encoder.layers
    fine, squares = layers[: len(layers) - len(coarse_encoder(layers))], Squares()
    for (whole, _), known, picture in zip(pairs, features, pictures, strict=True):
        enlarged = resize(picture, *whole.shape[-2:], "bicubic").clamp(-1.0, 1.0)
        size = [side // vae.factor for side in whole.shape[-2:]]
        squares.add(model.sketch(known, size), fine(enlarged / 2.0 + 0.5))
    model.read.weight.zero_()
    squares.solve(model.read)


class Squares:
    """Least squares of a convolution's outputs on its inputs, picture by picture."""

    def __init__(self) -> None:
        self._inputs, self._both = 0.0, 0.0

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """(1, C, H, W) and (1, D, H, W)."""
        x = F.unfold(inputs, KERNEL, padding=KERNEL // 2)[0].cpu().double()
        x, y = torch.cat([x, torch.ones_like(x[:1])]), outputs[0].flatten(1).cpu().double()
        self._inputs, self._both = self._inputs + x @ x.T, self._both + x @ y.T

    def solve(self, layer: nn.Conv2d, outputs: slice = slice(None)) -> None:
        """Into these outputs of a layer and as many of its inputs as were added."""
        if not (self._inputs.isfinite().all() and self._both.isfinite().all()):
            raise ValueError("the autoencoder's latents are not finite; its weights are damaged")
        gram = self._inputs.clone()
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        found = torch.linalg.solve(gram, self._both).T.to(layer.weight)
        channels = (found.shape[1] - 1) // KERNEL**2
        layer.weight[outputs, :channels] = found[:, :-1].unflatten(1, (channels, KERNEL, KERNEL))
        layer.bias[outputs] = found[:, -1]
