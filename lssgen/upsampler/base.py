"""What every learned upsampler is to the sampler: scaled latents in, larger scaled latents out."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lssgen.latents import resize


class Upsampler(ModelMixin, ConfigMixin):
    """Enlarges scaled latents by up to 2 in a call of `forward(latents, size)`, and by any ratio in `upsample`.

    Its configuration tells `in_channels`, those of its latents, and `vae`, the VAE that it was trained for, or "".
    """

    LEARNING_RATE = 4e-3  # of a training at its highest, by Muon, where none is asked for
    DECODED = 4  # crops of a batch of which a processor's training decodes one: that costs several times the rest

    @property
    def any_ratio(self) -> bool:
        """Whether it answers for other sizes than the double."""
        raise NotImplementedError

    @property
    def last_layers(self) -> dict[str, nn.Conv2d]:
        """The convolutions that its answers come from: of `doubling`, of the ratios `between`, or of `all`."""
        raise NotImplementedError

    def checked(self, latents: torch.Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        """`size`, by default the double of the latents' own, (h, w).

        Raises:
            ValueError: if it is not from (h, w) to (2h, 2w), or not the double though it is not of `any_ratio`.
        """
        h, w = latents.shape[-2:]
        size = tuple(size) if size else (2 * h, 2 * w)
        if not (h <= size[0] <= 2 * h and w <= size[1] <= 2 * w):
            raise ValueError(f"the size is {size}; it must be from {(h, w)} to {(2 * h, 2 * w)}")
        if not self.any_ratio and size != (2 * h, 2 * w):
            raise ValueError(f"the size is {size}; this upsampler only doubles, to {(2 * h, 2 * w)}")
        return size

    @torch.no_grad()
    def upsample(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, height, width) in hops of 2 at most: one for a ratio of up to 2, two up to 4.

        The last hop goes to the size itself where it is of `any_ratio`, else to the double and, antialiased, back.

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
            enlarged = self(enlarged, wanted if self.any_ratio else None)
        return resize(enlarged.to(latents.dtype), height, width, "bicubic")
