"""From a request to a Plan: the size, the steps and the sigmas of every stage, as plain values.

Nothing here holds a tensor or a scheduler. Schedules come from a `ScheduleSource`, which asks the stock pipeline
itself, so that no shift formula is written twice.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

from lssgen.process import Process
from lssgen.request import GenerationRequest
from lssgen.sizes import check_target, free_sizes, paper_sizes, size_text


class ScheduleSource(Protocol):
    """What planning needs to know of a model family."""

    name: str
    multiple: int  # both sides of a picture must be whole multiples of it, in pixels
    base_side: int  # the side at which the paper's step rule runs all steps
    process: Process  # what the sigmas of its schedules mean
    longest: int  # the most steps a schedule of it can have

    def schedule(self, height: int, width: int, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The stock (sigmas with the final 0, timesteps) of a `steps`-step run at this size, in pixels."""

    def step_cost(self, height: int, width: int) -> float:
        """Floating-point operations of one denoiser step at this size, in pixels."""


@dataclass(frozen=True)
class Stage:
    """One pass of the stock pipeline.

    `sigmas` has `num_steps + 1` values and ends in 0, in the units of `process`; `timesteps` has `num_steps`.
    `schedule_steps` is the length of the stock schedule these are the tail of; `cost` is the predicted floating-point
    operations of the whole stage. `renoised`: it starts from enlarged latents noised to its first sigma, not from
    noise.
    """

    height: int
    width: int
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    schedule_steps: int
    cost: float
    process: Process = Process.FLOW
    renoised: bool = False

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def sigma_start(self) -> float:
        """The noise level this stage starts from, in flow units: about 1 for a first stage, sigma_init for a later."""
        return self.process.flow_sigma(self.sigmas[0])

    @property
    def is_tail(self) -> bool:
        """Whether steps were cut off the front of the stock schedule."""
        return self.num_steps < self.schedule_steps


@dataclass(frozen=True)
class Plan:
    """The stages of the LSSGen arm and of the baseline arm, with what the user should know about them."""

    family: str
    stages: tuple[Stage, ...]
    baseline: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def predicted_speedup(self) -> float:
        """Predicted denoising cost of the baseline over that of LSSGen."""
        return sum(s.cost for s in self.baseline) / sum(s.cost for s in self.stages)

    def to_dict(self) -> dict:
        """A JSON-ready form, without rounding."""
        show = lambda stages: [{**asdict(s), "num_steps": s.num_steps} for s in stages]  # noqa: E731
        return {
            "family": self.family,
            "stages": show(self.stages),
            "baseline": show(self.baseline),
            "predicted_speedup": self.predicted_speedup,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{self.family}: {len(self.stages)} stage(s), predicted speed-up {self.predicted_speedup:.2f}"]
        for i, s in enumerate(self.stages):
            lines.append(
                f"  {i + 1}. {s.width} x {s.height}: {s.num_steps} of {s.schedule_steps} steps, "
                f"sigma {s.sigma_start:.3f} to 0 (log-SNR {log_snr(s.sigma_start):+.2f})"
            )
        last = self.baseline[-1]
        lines.append(f"  baseline: {sum(s.num_steps for s in self.baseline)} steps to {last.width} x {last.height}")
        return "\n".join(lines + [f"  note: {n}" for n in self.notes])


def log_snr(sigma: float) -> float:
    """log(alpha^2 / sigma^2) of the linear flow path x = (1 - sigma) x0 + sigma eps; -inf at 1, inf at 0."""
    if sigma >= 1.0:
        return -math.inf
    return math.inf if sigma <= 0.0 else 2.0 * math.log((1.0 - sigma) / sigma)


def plan(request: GenerationRequest, source: ScheduleSource) -> Plan:
    """The stages of `request` for a model family.

    Raises:
        ValueError: for a size, start or number of steps this family or step rule cannot run, naming one that works.
    """
    check_target(request.height, request.width, source.multiple, source.name)
    notes: list[str] = []
    if request.schedule == "paper":
        sizes = paper_sizes(request.height, request.width, request.start, source.multiple)
        if min(sizes[0]) != request.start:
            notes.append(f"the paper rule halves the target: the first stage is {size_text(sizes[0])}")
    else:
        sizes = free_sizes(request.height, request.width, request.start, source.multiple)
    if len(sizes) == 1:
        notes.append("start equals the target: one stage, the same as the native run")
        stages = (_stage(source, sizes[0], request.steps),)
    elif request.schedule == "paper":
        stages = _paper_stages(request, source, sizes)
        if source.process is not Process.FLOW:
            last = stages[-1]
            notes.append(
                f"for a diffusion model the paper rule takes sigma as a share of steps: the last stage keeps "
                f"{last.num_steps} of {last.schedule_steps} and starts at sigma {last.sigma_start:.3f}"
            )
    else:
        stages = _split_stages(request, source, sizes)
    if request.baseline == "pixel":
        return Plan(source.name, stages, stages, tuple(notes))
    native_steps = request.steps
    if request.schedule == "paper" and len(stages) > 1 and stages[-1].schedule_steps != request.steps:
        native_steps = stages[-1].schedule_steps
        notes.append(
            f"below {source.base_side} px the paper rule shortens the last schedule too: "
            f"the native arm runs {native_steps} steps, not {request.steps}"
        )
    return Plan(source.name, stages, (_stage(source, sizes[-1], native_steps),), tuple(notes))


def paper_steps(steps: int, height: int, width: int, base_side: int) -> int:
    """n = floor(N / log2(max(2, base^2 / A))): 512 px runs N/2 of a 1024 px base, 256 px N/4, 1024 and above N.

    Raises:
        ValueError: when no step would be left, naming the fewest steps that leave one.
    """
    divisor = math.log2(max(2.0, base_side**2 / (height * width)))
    if steps < divisor:
        raise ValueError(
            f"steps is {steps}, which leaves none for the stage of {size_text((height, width))}; "
            f"use at least {math.ceil(divisor)}"
        )
    return math.floor(steps / divisor)


def split_steps(steps: int, share: float, stages: int) -> list[int]:
    """Steps of each stage: round((1 - share) N) in the last, at least 1; the rest in equal parts, remainder first.

    Raises:
        ValueError: when a lower stage would get none, naming the smallest share that gives each one.
    """
    last = _last_steps(steps, share)
    lower = stages - 1
    each, rest = divmod(steps - last, lower)
    if each < 1:
        if steps < stages:
            raise ValueError(f"steps is {steps} for {stages} stages; use at least {stages}")
        smallest = next(p / 100 for p in range(1, 100) if steps - _last_steps(steps, p / 100) >= lower)
        raise ValueError(
            f"split is {share:g}, which leaves {steps - last} of {steps} steps for {lower} lower stage(s); "
            f"use at least {smallest:.2f}"
        )
    return [each + rest, *[each] * (lower - 1), last]


def _last_steps(steps: int, share: float) -> int:
    return max(1, math.floor((1.0 - share) * steps + 0.5))


def tail_start(sigmas: tuple[float, ...], sigma: float, process: Process = Process.FLOW) -> int:
    """Index of the smallest scheduled sigma still >= `sigma` in flow units (the final 0 not counted), 0 if none is."""
    return max((i for i, s in enumerate(sigmas[:-1]) if process.flow_sigma(s) >= sigma), default=0)


def share_start(steps: int, share: float) -> int:
    """The paper's rule for diffusion models: the last int(share n) of n steps are kept, whatever their noise levels.

    Raises:
        ValueError: when no step would be kept, naming the smallest share that keeps one.
    """
    kept = int(steps * share)
    if kept < 1:
        raise ValueError(
            f"sigma is {share:g}, which keeps none of {steps} steps (for a diffusion model the paper's rule takes it "
            f"as a share of the steps); use at least {math.ceil(100 / steps) / 100:.2f}"
        )
    return steps - kept


def _paper_stages(request: GenerationRequest, source: ScheduleSource, sizes: list) -> tuple[Stage, ...]:
    stages = []
    for i, size in enumerate(sizes):
        steps = paper_steps(request.steps, *size, source.base_side) if request.shorten else request.steps
        if source.process is Process.FLOW or i == 0:
            stages.append(_stage(source, size, steps, request.sigma if i else None))
        else:
            stages.append(_tail(source, size, steps, share_start(steps, request.sigma), renoised=True))
    return tuple(stages)


def _split_stages(request: GenerationRequest, source: ScheduleSource, sizes: list) -> tuple[Stage, ...]:
    counts = split_steps(request.steps, request.split, len(sizes))
    stages = [_stage(source, sizes[0], counts[0])]
    for size, count in zip(sizes[1:], counts[1:], strict=True):
        length = _schedule_length(source, size, count, request.sigma)
        stages.append(_stage(source, size, length, request.sigma))
    return tuple(stages)


def _schedule_length(source: ScheduleSource, size: tuple[int, int], count: int, sigma: float) -> int:
    """The smallest stock schedule whose tail from `sigma` on has `count` steps; tails grow with the schedule."""

    def tail(steps: int) -> int:
        sigmas, _ = source.schedule(*size, steps)
        return len(sigmas) - 1 - tail_start(sigmas, sigma, source.process)

    low, high = count, count
    while tail(high) < count:
        low, high = high + 1, high * 2
        if high > source.longest:
            raise ValueError(
                f"sigma is {sigma:g}, too small for {count} steps at {size_text(size)}; use a larger sigma"
            )
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if tail(middle) < count else (low, middle)
    if tail(low) != count:
        raise ValueError(
            f"no stock schedule at {size_text(size)} has {count} steps from sigma {sigma:g} on; move sigma"
        )
    return low


def _stage(source: ScheduleSource, size: tuple[int, int], steps: int, sigma: float | None = None) -> Stage:
    if sigma is None:
        return _tail(source, size, steps, 0, renoised=False)
    sigmas, _ = source.schedule(*size, steps)
    return _tail(source, size, steps, tail_start(sigmas, sigma, source.process), renoised=True)


def _tail(source: ScheduleSource, size: tuple[int, int], steps: int, first: int, *, renoised: bool) -> Stage:
    sigmas, timesteps = source.schedule(*size, steps)
    cost = (len(timesteps) - first) * source.step_cost(*size)
    return Stage(*size, sigmas[first:], timesteps[first:], steps, cost, source.process, renoised)
