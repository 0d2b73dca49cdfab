"""The one contract the sampler sees of any model family, and what adapters share.

An adapter wraps a stock diffusers pipeline. It never copies the pipeline's `__call__`: every stage is one stock call,
with the schedule's front cut off where a stage starts below full noise. To adapt a family, subclass `Adapter`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image

from lssgen.families.schedulers import swapped_scheduler, tail_of, usable
from lssgen.latents import LatentSpace
from lssgen.previews import Preview
from lssgen.schedule import Stage
from lssgen.upsampler import Upsampler

TILED_ABOVE, TILED_ON = 1024 * 1024, ("cuda", "mps")  # pixels; devices
OnStep = Callable[[int, Callable[[], torch.Tensor]], None]


class Adapter(ABC):
    """A loaded stock pipeline behind the sampler's contract.

    Latents cross this border as scaled grids (B, C, h, w), whatever the pipeline itself packs them into.

    A subclass says what differs from a pipeline that takes and returns such grids, with `guidance_scale` for
    classifier-free guidance: class attributes, the four methods marked abstract, and `pack`, `unpack`, `to_raw` and
    `to_scaled` where the defaults do not hold.

    Attributes:
        pipe: the stock pipeline, left exactly as found by every method.
        space: the VAE's latent space.
        patch: sides of a picture are multiples of this many latent pixels.
        guidance_argument: the stock call's name for the strength of guidance.
        guided_above: the strength above which a negative prompt acts.
        noise_dtype: of the noise the stock call draws; None for that of the denoiser.
        more_arguments: of every stock call.
    """

    patch: ClassVar[int] = 1
    guidance_argument: ClassVar[str] = "guidance_scale"
    guided_above: ClassVar[float] = 1.0
    noise_dtype: ClassVar[torch.dtype | None] = None
    more_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(self, pipe: DiffusionPipeline, max_sequence_length: int = 512) -> None:
        self.pipe, self.max_sequence_length = pipe, max_sequence_length
        self.space = LatentSpace(self.latent_channels, pipe.vae_scale_factor)

    # what a family says

    @classmethod
    @abstractmethod
    def weightless(cls, scheduler: SchedulerMixin) -> DiffusionPipeline:
        """A pipeline of the real class with this scheduler that can set schedules and nothing else."""

    @classmethod
    @abstractmethod
    def probe_inputs(cls, height: int, width: int) -> dict[str, Any]:
        """The cheapest inputs of `weightless`'s call up to its schedule, for a latent grid of this size."""

    @classmethod
    @abstractmethod
    def step_flops(cls, config: dict[str, Any], height: int, width: int, text_tokens: int) -> float:
        """Floating-point operations of one denoiser call on a latent grid of this size, from its configuration."""

    @abstractmethod
    def encode(self, prompt: str, negative_prompt: str, batch: int, guidance_scale: float | None) -> dict[str, Any]:
        """Encode once, repeated for `batch` pictures, into keyword arguments of the stock call."""

    def pack(self, grid: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> what the stock call takes as `latents`."""
        return grid

    def unpack(self, latents: torch.Tensor, stage: Stage) -> torch.Tensor:
        """What the stock call holds while it runs -> (B, C, h, w)."""
        return latents

    def to_raw(self, scaled: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> the VAE's own."""
        config = self.pipe.vae.config
        return scaled / config.scaling_factor + (config.get("shift_factor") or 0.0)

    def to_scaled(self, raw: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents -> scaled ones."""
        config = self.pipe.vae.config
        return (raw - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def finish(self, decoded: torch.Tensor) -> list[Image]:
        """The VAE's output (B, 3, H, W) in [-1, 1] to pictures, with whatever the stock call does to them."""
        return self.pipe.image_processor.postprocess(decoded, output_type="pil")

    # what the sampler calls

    @property
    def denoiser(self) -> torch.nn.Module:
        """The transformer or unet."""
        return getattr(self.pipe, "transformer", None) or self.pipe.unet

    @property
    def latent_channels(self) -> int:
        """Channels of the grid."""
        return self.pipe.vae.config.latent_channels

    def noise(
        self, generators: list[torch.Generator], height: int, width: int, device: torch.device | None = None
    ) -> torch.Tensor:
        """The noise the stock call would draw at this size in pixels: (B, C, h, w), standard normal.

        `device`: the pipeline's own, from whom knows it; to ask the pipeline takes a walk through all its modules.
        """
        shape = (len(generators), self.space.channels, height // self.space.factor, width // self.space.factor)
        dtype = self.noise_dtype or self.denoiser.dtype
        device = device or self.pipe._execution_device
        return randn_tensor(shape, generator=generators, device=device, dtype=dtype)

    def denoise(
        self,
        stage: Stage,
        latents: torch.Tensor,
        encoded: dict[str, Any],
        guidance_scale: float | None,
        on_step: OnStep,
        generators: list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """One stock call from `stage.sigmas[0]` to the end: (B, C, h, w) -> (B, C, h, w), scaled.

        Args:
            stage: its size, steps and place in the stock schedule.
            latents: standard normal noise, or latents noised to its first sigma where the stage is `renoised`.
            encoded: from `encode`.
            guidance_scale: None for the pipeline's own default.
            on_step: `on_step(i, latents)` is called after step i, `latents()` being the grid; what it raises passes
                through.
            generators: for schedulers that add noise in every step.
        """
        made = self.pack(latents)

        def callback(pipe: DiffusionPipeline, step: int, timestep: torch.Tensor, kwargs: dict) -> dict:
            nonlocal made  # what the call returns is the same, but for klein, whose output is no longer scaled
            made = kwargs["latents"]
            on_step(step, lambda: self.unpack(made, stage))
            return kwargs

        scheduler = usable(self.pipe.scheduler)
        if stage.is_tail or stage.renoised:
            scheduler = tail_of(scheduler, stage.num_steps)
        guidance = {} if guidance_scale is None else {self.guidance_argument: guidance_scale}
        try:
            with swapped_scheduler(self.pipe, scheduler):
                self.pipe(
                    **encoded,
                    **guidance,
                    **self.more_arguments,
                    num_inference_steps=stage.schedule_steps,
                    height=stage.height,
                    width=stage.width,
                    latents=made,
                    generator=generators,
                    output_type="latent",
                    callback_on_step_end=callback,
                )
        except BaseException:
            self.pipe.maybe_free_model_hooks()  # else the call itself has done so
            raise
        return self.unpack(made, stage)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, *, finish: bool = True) -> list[Image]:
        """(B, C, h, w), scaled, to pictures of (factor h, factor w) pixels, exactly as the stock call decodes.

        Without `finish` no watermark is put in and no safety checker asked: for pictures that are encoded again.
        """
        raw = self.to_raw(latents.to(self.pipe.vae.dtype))
        with self._tiling(raw.shape[-2] * raw.shape[-1] * self.space.factor**2):
            decoded = self._decode(raw)
        return self.finish(decoded) if finish else Adapter.finish(self, decoded)

    @contextmanager
    def _tiling(self, pixels: int) -> Iterator[None]:
        """Decode large pictures in tiles, as users of the stock pipeline do where a GPU's memory is short."""
        vae = self.pipe.vae
        tile = pixels > TILED_ABOVE and self.pipe._execution_device.type in TILED_ON and hasattr(vae, "enable_tiling")
        if not tile or getattr(vae, "use_tiling", False):
            yield
            return
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()

    def _decode(self, raw: torch.Tensor) -> torch.Tensor:
        return self.pipe.vae.decode(raw, return_dict=False)[0]

    @torch.no_grad()
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        """Pictures to scaled latents (B, C, h, w), by the mode of the VAE's posterior."""
        pixels = self.pipe.image_processor.preprocess(images).to(self.pipe._execution_device, self.pipe.vae.dtype)
        raw = self.pipe.vae.encode(pixels).latent_dist.mode()
        return self.to_scaled(raw).to(self.noise_dtype or self.denoiser.dtype)


@dataclass(frozen=True)
class Model:
    """All that sampling needs: the adapted pipeline and, where they exist, its upsampler and preview."""

    adapter: Adapter
    upsampler: Upsampler | None = None
    preview: Preview | None = None


def keyed(names: str, values: Iterable[Any]) -> dict[str, Any]:
    """Values by the names, with blanks between them, that a stock call takes them under."""
    return dict(zip(names.split(), values, strict=True))


def is_guided(guidance_scale: float | None, above: float = 1.0) -> bool:
    """Whether classifier-free guidance acts: by default, or where its scale is above the one that changes nothing."""
    return guidance_scale is None or guidance_scale > above


def dit_flops(tokens: int, width: int, layers: int, weights: float) -> float:
    """A transformer's FLOPs: 2 a weight and token, with `weights` width^2 of them a layer, and attention's 4 T^2 d."""
    return float(layers * (2 * weights * width**2 * tokens + 4 * tokens**2 * width))
