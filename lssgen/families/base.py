"""The one contract the sampler sees of any model family, and the tools adapters share.

An adapter wraps a stock diffusers pipeline. It never copies the pipeline's `__call__`: every stage is one stock call.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from PIL.Image import Image

from lssgen.latents import LatentSpace
from lssgen.previews import LatentPreview
from lssgen.schedule import Stage
from lssgen.upsampler import LatentUpsampler

OnStep = Callable[[int, torch.Tensor], None]


class Adapter(ABC):
    """A loaded stock pipeline behind the sampler's contract.

    Latents cross this border as scaled grids (B, C, h, w), whatever the pipeline itself packs them into.

    Attributes:
        pipe: the stock pipeline, left exactly as found by every method.
        space: the VAE's latent space.
    """

    pipe: DiffusionPipeline
    space: LatentSpace

    @abstractmethod
    def encode(self, prompt: str, batch: int) -> dict[str, Any]:
        """Encode the prompt once, repeated for `batch` pictures, into keyword arguments of the stock call."""

    @abstractmethod
    def noise(self, generators: list[torch.Generator], height: int, width: int) -> torch.Tensor:
        """The noise the stock call would draw at this size in pixels: (B, C, h, w), standard normal."""

    @abstractmethod
    def denoise(
        self,
        stage: Stage,
        latents: torch.Tensor,
        encoded: dict[str, Any],
        guidance_scale: float | None,
        on_step: OnStep,
    ) -> torch.Tensor:
        """One stock call from `stage.sigma_start` to 0: (B, C, h, w) -> (B, C, h, w), scaled.

        `on_step(i, latents)` is called after step i with the grid; what it raises passes through.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> list[Image]:
        """(B, C, h, w), scaled, to pictures of (factor h, factor w) pixels, exactly as the stock call decodes."""

    @abstractmethod
    def encode_images(self, images: list[Image]) -> torch.Tensor:
        """Pictures to scaled latents (B, C, h, w), by the mode of the VAE's posterior."""


@dataclass(frozen=True)
class Model:
    """All that sampling needs: the adapted pipeline and, where they exist, its upsampler and preview map."""

    adapter: Adapter
    upsampler: LatentUpsampler | None = None
    preview: LatentPreview | None = None


class Probed(Exception):
    """Carries the schedule out of a stock call that was stopped before its first step."""

    def __init__(self, sigmas: torch.Tensor, timesteps: torch.Tensor) -> None:
        self.sigmas = tuple(sigmas.tolist())
        self.timesteps = tuple(timesteps.tolist())


def probing(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy of `scheduler` that raises `Probed` with the schedule as soon as a pipeline has set it.

    Its `set_timesteps` keeps the original's signature, which pipelines inspect.
    """
    base = type(scheduler)

    class Probe(base):
        @functools.wraps(base.set_timesteps)
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            raise Probed(self.sigmas, self.timesteps)

    return Probe.from_config(scheduler.config)


@contextmanager
def swapped_scheduler(pipe: DiffusionPipeline, scheduler: SchedulerMixin) -> Iterator[None]:
    """Run with another scheduler and put the original object back, whatever happens."""
    original = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = original


def identity_shift(scheduler: SchedulerMixin) -> FlowMatchEulerDiscreteScheduler:
    """A flow scheduler that takes `sigmas=` literally; the stock one would shift given sigmas a second time."""
    return FlowMatchEulerDiscreteScheduler.from_config(
        scheduler.config,
        use_dynamic_shifting=False,
        shift=1.0,
        shift_terminal=None,
        invert_sigmas=False,
        use_karras_sigmas=False,
        use_exponential_sigmas=False,
        use_beta_sigmas=False,
    )
