"""What shows a step: the model's own map, a tiny decoder of its latent space, or a map fitted to its VAE."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image

from lssgen import hub
from lssgen.families import remote
from lssgen.families.base import Adapter
from lssgen.families.table import ModelError, Settings
from lssgen.previews import LatentPreview, Preview

log = logging.getLogger(__name__)
# latent space -> decoder that takes its scaled latents (MIT licence, a few MB each)
TINY = {"sd1": "madebyollin/taesd", "sdxl": "madebyollin/taesdxl", "sd3": "madebyollin/taesd3",
        "flux1": "madebyollin/taef1"}  # fmt: skip
FITTED_SIDE, FITTED_COUNT = 16, 8  # latent pixels a side, pictures


class TinyPreview:
    """A TAESD-type decoder: near the real picture, in milliseconds on a GPU."""

    def __init__(self, decoder: AutoencoderTiny) -> None:
        self._decoder = decoder

    @torch.no_grad()
    def image(self, latents: torch.Tensor) -> Image.Image:
        """The first of (B, C, h, w) scaled latents as a picture of the full size in pixels."""
        z = latents[:1].to(self._decoder.device, self._decoder.dtype)
        pixels = self._decoder.decode(z, return_dict=False)[0][0].float().cpu()
        pixels = torch.nan_to_num(pixels * 0.5 + 0.5).clamp(0.0, 1.0)
        return Image.fromarray((pixels * 255.0 + 0.5).byte().permute(1, 2, 0).numpy())


def previewer(its: Settings, adapter: Adapter) -> Preview:
    """The best preview to be had for a loaded model, from what is on this machine.

    On a CPU a decode at each step would cost as much as the step: the linear map serves there.
    """
    if its.latent_rgb:
        return LatentPreview(its.latent_rgb)
    device = adapter.pipe._execution_device
    if _wants_decoder(its, device):
        try:
            decoder = AutoencoderTiny.from_pretrained(remote.decoder(TINY[its.vae], offline=True))
            if decoder.config.latent_channels == adapter.space.channels:
                return TinyPreview(decoder.to(device, adapter.denoiser.dtype).eval())
        except Exception as error:  # a preview is not worth a failure
            log.info("no preview decoder (%s)", hub.brief(error))
    return fitted(adapter)


def fetch_decoder(its: Settings, device: torch.device, progress: hub.Progress | None = None) -> None:
    """Download the decoder that `previewer` would take, where the hub has it; without one nothing is lost."""
    if _wants_decoder(its, device):
        try:
            remote.decoder(TINY[its.vae], progress or (lambda share, text: None))
        except ModelError as error:
            log.info("no preview decoder (%s)", error)


def _wants_decoder(its: Settings, device: torch.device) -> bool:
    return not its.latent_rgb and device.type != "cpu" and its.vae in TINY


def fitted(adapter: Adapter) -> LatentPreview:
    """A linear map fitted to what the model's own VAE makes of smooth colours."""
    images = colour_fields(FITTED_SIDE * adapter.space.factor, FITTED_COUNT)
    latents = [adapter.encode_images([image])[0] for image in images]
    return LatentPreview.fit(latents, images)


def colour_fields(side: int, count: int) -> list[Image.Image]:
    """Pictures of smooth random colours, coarse and fine in turn, always the same ones."""
    generator, images = torch.Generator().manual_seed(0), []
    for k in range(count):
        cells = torch.rand(1, 3, 2 + 2 * (k % 4), 2 + 2 * (k % 4), generator=generator) * 1.4 - 0.2
        field = F.interpolate(cells, size=(side, side), mode="bicubic", align_corners=True).clamp(0.0, 1.0)[0]
        images.append(Image.fromarray((field * 255.0 + 0.5).byte().permute(1, 2, 0).numpy()))
    return images
