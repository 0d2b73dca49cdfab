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
from lssgen.request import GenerationRequest
from lssgen.sampler import synchronize


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
    return {"repeat": repeat, "arms": arms}


@contextmanager
def _network_time(model: Model) -> Iterator[list[float]]:
    """Seconds spent inside the networks while the block runs, as the only item of a list."""
    spent = [0.0]
    pipe = model.adapter.pipe
    targets: list[tuple[Any, str]] = [(pipe.vae, "decode"), (pipe.vae, "encode")]
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    networks = (model.adapter.denoiser, *encoders, model.upsampler)
    targets += [(network, "forward") for network in networks if network is not None]
    with ExitStack() as stack:
        for owner, name in targets:
            stack.enter_context(_timed(owner, name, spent, pipe._execution_device))
        yield spent


@contextmanager
def _timed(owner: Any, name: str, spent: list[float], device: torch.device) -> Iterator[None]:
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
