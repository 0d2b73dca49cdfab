"""Benchmarks. Everything compared runs in one process, interleaved; medians are reported, with their intervals."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished
from lssgen.families.base import Model
from lssgen.families.schedulers import swapped_scheduler, usable
from lssgen.request import GenerationRequest
from lssgen.sampler import run_arm, synchronize
from lssgen.schedule import Stage
from lssgen.worker import in_worker

RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall's clock, and of the processor: of all threads of this process, waiting not counted."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    @classmethod
    def now(cls, device: torch.device) -> Spent:
        synchronize(device)
        return cls(time.perf_counter(), time.process_time())


def overhead(engine: Engine, request: GenerationRequest, repeat: int) -> dict[str, Any]:
    """What an arm costs beside its networks (`outside_share`), and beside plain stock calls (`orchestration`).

    Raises:
        RuntimeError: if an arm fails.
        ValueError: for a request the model cannot run.
    """
    engine.warm_up(request)
    model = engine.load()
    return {
        "repeat": repeat,
        "threads": torch.get_num_threads(),
        "arms": outside_share(model, engine, request, repeat),
        "orchestration": in_worker(lambda: orchestration(model, engine, request, repeat)),
    }


def outside_share(model: Model, engine: Engine, request: GenerationRequest, repeat: int) -> dict[str, Any]:
    """The share of each arm's time spent outside the denoiser, text encoder, VAE and upsampler calls."""
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
                    shares[event.arm].append(1.0 - (spent[0].wall - before) / total)
                    before = spent[0].wall
    return {arm: {"seconds": median(seconds[arm]), "outside_share": median(shares[arm])} for arm in seconds}


def orchestration(model: Model, engine: Engine, request: GenerationRequest, repeat: int) -> dict[str, Any]:
    """What a staged run costs over the stock calls it is made of: the LSSGen arm without networks that enlarge.

    Text is encoded before and nothing is decoded or previewed, in either: besides the time, what these leave of caches
    and memory slows whatever comes next.

    `paired`: against plain stock calls of the same sizes and numbers of steps. A repetition runs staged, stock, stock,
    staged, the next one the other way round, so that a machine that slows down or speeds up meanwhile favours neither;
    its ratio is that of the sums.
    `direct`: within the staged run itself, over the stock calls in it, less their callbacks: a far sharper figure, as
    it is no difference of two large numbers, but blind to what would slow the calls themselves.

    `over` is the median ratio less 1, `low` and `high` its 95 % interval (bootstrap). `cpu` is processor time: waiting
    for others on a shared machine is not in it.
    """
    model, stages = replace(model, preview=None), engine.plan(request).stages
    request = engine.filled(request)
    scale, seeds = request.guidance_scale, len(request.seeds)
    encoded = model.adapter.encode(request.prompt, request.negative_prompt, seeds, scale)
    runs = {kind: functools.partial(kind, model, request, stages, encoded) for kind in (_staged, _stock)}
    for run in runs.values():
        run()  # warms up
    repetitions = []
    for turn in range(repeat):
        sums = {"staged": Spent(), "calls": Spent(), "stock": Spent()}
        ends, middle = (_staged, _stock) if turn % 2 == 0 else (_stock, _staged)
        for kind in (ends, middle, middle, ends):
            for part, spent in runs[kind]().items():
                sums[part] += spent
        repetitions.append(sums)
    return {
        "paired": _figures([(s["staged"], s["stock"]) for s in repetitions]),
        "direct": _figures([(s["staged"], s["calls"]) for s in repetitions]),
    }


def _staged(
    model: Model, request: GenerationRequest, stages: tuple[Stage, ...], encoded: dict[str, Any]
) -> dict[str, Spent]:
    """A staged run, and the part of it that the stock calls took."""
    adapter, aside, calls = model.adapter, [Spent()], [Spent()]
    device = adapter.pipe._execution_device
    with ExitStack() as stack:
        decode = adapter.decode
        stack.enter_context(_replaced(adapter, "encode", lambda *_: encoded))
        stack.enter_context(
            _replaced(adapter, "decode", lambda z, finish=True: [] if finish else decode(z, finish=False))
        )
        for name in ("decode", "encode_images"):  # of the upsampling by pixels
            stack.enter_context(_timed_method(adapter, name, aside, device))
        if model.upsampler is not None:
            stack.enter_context(_timed_method(model.upsampler, "upsample", aside, device))
        stack.enter_context(_timed_calls(adapter.pipe, calls, device))
        start = Spent.now(device)
        run_arm(model, request, stages, arm="lssgen", upsampler=request.upsampler)
        return {"staged": Spent.now(device) - start - aside[0], "calls": calls[0]}


def _stock(
    model: Model, request: GenerationRequest, stages: tuple[Stage, ...], encoded: dict[str, Any]
) -> dict[str, Spent]:
    adapter, scale = model.adapter, request.guidance_scale
    guidance = {} if scale is None else {adapter.guidance_argument: scale}
    device = adapter.pipe._execution_device
    start = Spent.now(device)
    for stage in stages:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
        with swapped_scheduler(adapter.pipe, usable(adapter.pipe.scheduler)):
            adapter.pipe(
                **encoded, **guidance, **adapter.more_arguments, num_inference_steps=stage.num_steps,
                height=stage.height, width=stage.width, generator=generators, output_type="latent",
            )  # fmt: skip
    return {"stock": Spent.now(device) - start}


def _figures(pairs: Sequence[tuple[Spent, Spent]]) -> dict[str, dict[str, float]]:
    """Of sums of two runs each."""
    figures = {}
    for clock in ("wall", "cpu"):
        ours, theirs = ([getattr(spent, clock) / 2 for spent in side] for side in zip(*pairs, strict=True))
        ratios = [a / b - 1.0 for a, b in zip(ours, theirs, strict=True)]
        low, high = interval(ratios)
        row = {"staged": median(ours), "stock": median(theirs), "over": median(ratios), "low": low, "high": high}
        figures[clock] = row
    return figures


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of the median: where it lies in `share` of the samples drawn anew from these."""
    rng = random.Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    cut = round(RESAMPLES * (1.0 - share) / 2)
    return medians[cut], medians[-1 - cut]


@contextmanager
def _network_time(model: Model) -> Iterator[list[Spent]]:
    """What the networks took while the block runs, as the only item of a list."""
    spent = [Spent()]
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
def _timed_forward(network: torch.nn.Module, spent: list[Spent], device: torch.device) -> Iterator[None]:
    """By torch's hooks, which leave accelerate's alone."""

    def before(*_: Any) -> None:
        spent[0] -= Spent.now(device)

    def after(*_: Any) -> None:
        spent[0] += Spent.now(device)

    handles = network.register_forward_pre_hook(before), network.register_forward_hook(after, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _timed_calls(pipe: Any, spent: list[Spent], device: torch.device) -> Iterator[None]:
    """The pipeline's calls, without what their callbacks take."""
    kind = type(pipe)
    original = kind.__call__

    def call(self: Any, *args: Any, callback_on_step_end: Callable, **kwargs: Any) -> Any:
        def callback(*inputs: Any) -> dict:
            begun = Spent.now(device)
            try:
                return callback_on_step_end(*inputs)
            finally:
                spent[0] -= Spent.now(device) - begun

        start = Spent.now(device)
        try:
            return original(self, *args, callback_on_step_end=callback, **kwargs)
        finally:
            spent[0] += Spent.now(device) - start

    with _replaced(kind, "__call__", call):
        yield


@contextmanager
def _timed_method(owner: Any, name: str, spent: list[Spent], device: torch.device) -> Iterator[None]:
    original: Callable = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = Spent.now(device)
        try:
            return original(*args, **kwargs)
        finally:
            spent[0] += Spent.now(device) - start

    with _replaced(owner, name, call):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of an object, over its own or its class's."""
    missing = object()
    former = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if former is missing else setattr(owner, name, former)
