"""Benchmarks. Everything compared runs in one process, interleaved, and medians are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import torch

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished
from lssgen.families.base import Model
from lssgen.families.schedulers import swapped_scheduler, usable
from lssgen.request import GenerationRequest
from lssgen.sampler import run_arm, synchronize
from lssgen.worker import in_worker


def overhead(engine: Engine, request: GenerationRequest, repeat: int) -> dict[str, Any]:
    """The share of each arm's time spent outside the denoiser, text encoder, VAE and upsampler calls.

    Raises:
        RuntimeError: if an arm fails.
        ValueError: for a request the model cannot run.
    """
    engine.warm_up(request)
    model = engine.load()
    seconds: dict[str, list[float]] = {"lssgen": [], "baseline": []}
    shares: dict[str, list[float]] = {"lssgen": [], "baseline": []}
    for turn in range(repeat):
        with _network_time(model) as spent:
            before = 0.0
            for event in engine.compare(request, baseline_first=turn % 2 == 1):
                if isinstance(event, ArmFailed):
                    raise RuntimeError(f"the {event.arm} arm failed: {event.message}")
                if isinstance(event, ArmFinished):
                    # stage decodes of the page are network time too: count them on both sides
                    total = event.seconds.total + event.seconds.preview
                    seconds[event.arm].append(event.seconds.total)
                    shares[event.arm].append(1.0 - (spent[0] - before) / total)
                    before = spent[0]
    arms = {
        arm: {"seconds": median(seconds[arm]), "outside_share": median(shares[arm])} for arm in seconds if seconds[arm]
    }
    return {
        "repeat": repeat,
        "arms": arms,
        "orchestration": in_worker(lambda: orchestration(model, engine, request, repeat)),
    }


def orchestration(model: Model, engine: Engine, request: GenerationRequest, repeat: int) -> dict[str, float]:
    """What a staged run costs over the stock calls it is made of.

    Seconds of the LSSGen arm without text, upsampling, decodes and previews, and of plain stock calls of the same sizes
    and numbers of steps, by turns; `over` is the median of their ratios, less 1.
    """
    stages, adapter = engine.plan(request).stages, model.adapter
    request = engine.filled(request)
    scale = request.guidance_scale
    guidance = {} if scale is None else {adapter.guidance_argument: scale}
    encoded = adapter.encode(request.prompt, request.negative_prompt, len(request.seeds), scale)
    times: dict[str, list[float]] = {"staged": [], "stock": []}

    def staged() -> float:
        its = run_arm(model, request, stages, arm="lssgen", upsampler=request.upsampler).seconds
        return its.total - its.text - its.upsample - its.decode

    def stock() -> float:
        synchronize(adapter.pipe._execution_device)
        start = time.perf_counter()
        for stage in stages:
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
            with swapped_scheduler(adapter.pipe, usable(adapter.pipe.scheduler)):
                adapter.pipe(
                    **encoded, **guidance, **adapter.more_arguments, num_inference_steps=stage.num_steps,
                    height=stage.height, width=stage.width, generator=generators, output_type="latent",
                )  # fmt: skip
        synchronize(adapter.pipe._execution_device)
        return time.perf_counter() - start

    for turn in range(repeat + 1):
        for name, run in sorted({"staged": staged, "stock": stock}.items(), reverse=turn % 2 == 1):
            seconds = run()
            if turn:  # the first turn warms up
                times[name].append(seconds)
    over = median(a / b for a, b in zip(times["staged"], times["stock"], strict=True)) - 1.0
    return {"staged": median(times["staged"]), "stock": median(times["stock"]), "over": over}


@contextmanager
def _network_time(model: Model) -> Iterator[list[float]]:
    """Seconds spent inside the networks while the block runs, as the only item of a list."""
    spent = [0.0]
    pipe = model.adapter.pipe
    device = pipe._execution_device
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    with ExitStack() as stack:
        for network in (model.adapter.denoiser, *encoders, model.upsampler):
            if network is not None:
                stack.enter_context(_timed_forward(network, spent, device))
        for name in ("decode", "encode"):
            stack.enter_context(_timed_method(pipe.vae, name, spent, device))
        yield spent


@contextmanager
def _timed_forward(network: torch.nn.Module, spent: list[float], device: torch.device) -> Iterator[None]:
    """By torch's hooks, which leave accelerate's alone."""

    def before(*_: Any) -> None:
        synchronize(device)
        spent[0] -= time.perf_counter()

    def after(*_: Any) -> None:
        synchronize(device)
        spent[0] += time.perf_counter()

    handles = network.register_forward_pre_hook(before), network.register_forward_hook(after, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _timed_method(owner: Any, name: str, spent: list[float], device: torch.device) -> Iterator[None]:
    original: Callable = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            synchronize(device)
            spent[0] += time.perf_counter() - start

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)
