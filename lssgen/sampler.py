"""The staged sampler: one stock pipeline call for each stage, an upsampling and a re-noising between them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from lssgen.events import ArmFinished, Event, Seconds, StageFinished, StageStarted, Stepped
from lssgen.families.base import Adapter, Model, OnStep
from lssgen.latents import clean_estimate, coupled_noise, renoise, resize
from lssgen.request import GenerationRequest
from lssgen.schedule import Stage

Emit = Callable[[Event], None]
Stop = Callable[[], bool]


class Stopped(Exception):
    """The run was stopped by its user; raised within one denoiser step."""


class Clock:
    """Wall seconds by phase, the device synchronised at each border. `preview` is taken out of whatever holds it."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.spent: Counter[str] = Counter()
        self.device = device  # None as long as nothing was done on it

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start, aside = self._now(), self.spent["preview"]
        try:
            yield
        finally:
            aside = self.spent["preview"] - aside if name != "preview" else 0.0
            self.spent[name] += self._now() - start - aside

    def _now(self) -> float:
        if self.device is not None:
            synchronize(self.device)
        return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class NoiseSource:
    """Each stage's noise. `coupled`: all from the baseline's own full-size noise; `fresh`: drawn anew, in order."""

    def __init__(self, adapter: Adapter, request: GenerationRequest, device: torch.device | None = None) -> None:
        self._adapter, self._device = adapter, device
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
        self._full = None
        if request.noise == "coupled":
            self._full = adapter.noise(self.generators, request.height, request.width, device)

    def at(self, height: int, width: int) -> torch.Tensor:
        """Standard normal (B, C, h, w) for a stage of this size in pixels."""
        if self._full is None:
            return self._adapter.noise(self.generators, height, width, self._device)
        factor = self._adapter.space.factor
        return coupled_noise(self._full, height // factor, width // factor)


def run_arm(
    model: Model,
    request: GenerationRequest,
    stages: tuple[Stage, ...],
    *,
    arm: str,
    upsampler: str,
    emit: Emit = lambda event: None,
    stopped: Stop = lambda: False,
) -> ArmFinished:
    """Run the stages of one arm and report as it goes.

    A plan of one stage is the stock call, bit for bit. The pipeline is left as found after success, error and stop.

    Args:
        model: the loaded model.
        request: prompt, seeds, guidance_scale and noise are read from it.
        stages: from `lssgen.schedule.plan`, smallest first.
        arm: name put into the events.
        upsampler: how latents are enlarged between stages, one of `lssgen.request.UPSAMPLERS`.
        emit: receives the events, in this thread; its time counts as preview.
        stopped: asked before each stage and after each step; when true, the run raises `Stopped`.

    Raises:
        Stopped: when `stopped` said so.
        ValueError: if `upsampler` is "learned" and the model has none.
    """
    if len(stages) > 1 and upsampler == "learned" and model.upsampler is None:
        raise ValueError("this model has no learned upsampler; use upsampler='bicubic' or 'pixel'")
    adapter = model.adapter
    clock, finished = Clock(), []
    with clock.phase("total"):
        _check(stopped)
        with clock.phase("text"):
            encoded = adapter.encode(
                request.prompt, request.negative_prompt, len(request.seeds), request.guidance_scale
            )
            clock.device = _device_of(encoded)
        noise = NoiseSource(adapter, request, clock.device)
        latents = None
        for index, stage in enumerate(stages):
            last = index == len(stages) - 1
            _check(stopped)
            with clock.phase("preview"):
                emit(StageStarted(arm, index, stage.height, stage.width, stage.num_steps))
            if latents is None:
                latents = noise.at(stage.height, stage.width)
            else:
                with clock.phase("upsample"):
                    latents = enlarge(model, latents, stage, upsampler)
                latents = renoise(latents, noise.at(stage.height, stage.width), stage.sigmas[0], stage.process)
            before = clock.spent["denoise"]
            with clock.phase("denoise"):
                on_step = _stepper(model, stage, latents, arm, index, clock, emit, stopped)
                guidance = request.guidance_scale
                latents = adapter.denoise(stage, latents, encoded, guidance, on_step, noise.generators)
            seconds = clock.spent["denoise"] - before
            with clock.phase("decode" if last else "preview"):
                images = tuple(adapter.decode(latents))
            event = StageFinished(arm, index, stage.height, stage.width, stage.num_steps, seconds, images)
            finished.append(event)
            with clock.phase("preview"):
                emit(event)
    return ArmFinished(arm, finished[-1].images, tuple(finished), Seconds(**clock.spent))


def _device_of(encoded: dict[str, Any]) -> torch.device:
    """Where the pipeline runs, which is where its encoders leave what they made.

    Asked itself, it walks through all its modules: longer than all else that is done here beside its calls.
    """
    made = next(value for value in encoded.values() if value is not None)
    return made[0].device


def enlarge(model: Model, latents: torch.Tensor, stage: Stage, method: str) -> torch.Tensor:
    """Clean scaled latents (B, C, h, w) enlarged to `stage`'s size by one of `lssgen.request.UPSAMPLERS`."""
    factor = model.adapter.space.factor
    height, width = stage.height // factor, stage.width // factor
    if method == "learned":
        return model.upsampler.upsample(latents, height, width)
    if method == "pixel":
        images = model.adapter.decode(latents, finish=False)
        return model.adapter.encode_images([i.resize((stage.width, stage.height), Image.BICUBIC) for i in images])
    return resize(latents, height, width, method)


def _stepper(
    model: Model,
    stage: Stage,
    latents: torch.Tensor,
    arm: str,
    index: int,
    clock: Clock,
    emit: Emit,
    stopped: Stop,
) -> OnStep:
    """The per-step callback: stops, previews the clean estimate, reports; all of it outside the denoising time."""

    def on_step(step: int, after: Callable[[], torch.Tensor]) -> None:
        nonlocal latents
        _check(stopped)
        with clock.phase("preview"):
            image = None
            if model.preview is not None:
                now, then = stage.sigmas[step : step + 2]
                before, latents = latents, after()
                clean = clean_estimate(before[:1], latents[:1], now, then, stage.process)
                image = model.preview.image(clean)
            emit(Stepped(arm, index, step + 1, stage.num_steps, image))

    return on_step


def _check(stopped: Stop) -> None:
    if stopped():
        raise Stopped
