"""TAESD's files as published, NAME_encoder.safetensors and NAME_decoder.safetensors, read into AutoencoderTiny.

Each holds one `nn.Sequential` of 3 x 3 convolutions and residual blocks. The decoder's begins with a clamp without
weights, which its keys may count, so that they start at 0 or 1. The deepest blocks of taef2 have a branch that sees the
whole picture besides. They make and take *scaled* latents.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

KEYS = {"taesd": "sd1", "taesdxl": "sdxl", "taesd3": "sd3", "taef1": "flux1", "taef2": "flux2"}  # file name: VAE key
State = dict[str, torch.Tensor]


class PooledBlock(AutoencoderTinyBlock):
    """A residual block after a branch of 1 x 1 convolutions whose GroupNorm sees the whole picture."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, width, "relu")
        self.pool = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.GroupNorm(4, hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) -> the same shape."""
        return super().forward(x + self.pool(x))


def load(pair: Path) -> AutoencoderTiny:
    """The autoencoder of a pair of files, in float32.

    Args:
        pair: their common path, such as DIR/taef1 for DIR/taef1_encoder.safetensors and DIR/taef1_decoder.safetensors.

    Raises:
        ValueError: if a file is missing, broken or of another layout.
    """
    encoder, decoder = (_read(pair.with_name(f"{pair.name}_{part}.safetensors")) for part in ("encoder", "decoder"))
    try:
        decoder = _shifted(decoder, -min(map(_index, decoder)))
        last = f"{max(map(_index, encoder))}.weight"
        model = AutoencoderTiny(
            encoder_block_out_channels=(len(encoder["0.weight"]),) * 4,
            decoder_block_out_channels=(len(decoder["0.weight"]),) * 4,
            latent_channels=len(encoder[last]),
        )
        for layers, state in ((model.encoder.layers, encoder), (model.decoder.layers, decoder)):
            for index in {_index(key) for key in state if ".pool." in key}:
                hidden, width = state[f"{index}.pool.0.weight"].shape[:2]
                layers[index] = PooledBlock(width, hidden)
            layers.load_state_dict(state)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{pair}_encoder and _decoder are not laid out as TAESD's ({what})") from error
    return model.eval()


def _read(path: Path) -> State:
    if not path.is_file():
        raise ValueError(
            f"there is no {path}; with --tiny, name a pair NAME_encoder and NAME_decoder.safetensors as NAME"
        )
    try:
        return {key: value.float() for key, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({type(error).__name__})") from error


def _index(key: str) -> int:
    """The layer that a key such as 11.conv.0.weight belongs to."""
    found = re.match(r"\d+", key)
    if found is None:
        raise ValueError(f"a key is {key!r}")
    return int(found[0])


def _shifted(state: State, by: int) -> State:
    """The same layers counted from another number."""
    return {f"{_index(key) + by}.{key.partition('.')[2]}": value for key, value in state.items()}
