"""Borrowing a pipeline's scheduler: read its schedule, run the tail of it, and put the original back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, LCMScheduler, SchedulerMixin

from lssgen.families.table import ModelError
from lssgen.process import Process

# first-order-in-calls solvers whose schedule can be cut: one timestep, one network call
EDM_FORM = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "EDMEulerScheduler",
            "EDMDPMSolverMultistepScheduler")  # fmt: skip
VP_FORM = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
           "DEISMultistepScheduler")  # fmt: skip
FLOW_FORM = ("FlowMatchEulerDiscreteScheduler",)
LONGEST_FLOW = 20_000
EULER_INSTEAD = ("PNDMScheduler",)  # warms up with steps of its own, which no tail can repeat


class Probed(Exception):
    """Carries the schedule out of a stock call that was stopped before its first step."""

    def __init__(self, sigmas: tuple[float, ...], timesteps: tuple[float, ...]) -> None:
        self.sigmas, self.timesteps = sigmas, timesteps


def make_scheduler(config: dict[str, Any]) -> SchedulerMixin:
    """The scheduler a scheduler_config.json describes. Raises ModelError for one staged sampling cannot run."""
    name = str(config.get("_class_name"))
    known = (*FLOW_FORM, *EDM_FORM, *VP_FORM)
    if name not in (*known, *EULER_INSTEAD):
        raise ModelError(f"staged sampling cannot run a {name}; give the model one of {', '.join(known)}")
    if config.get("stochastic_sampling"):
        raise ModelError("the scheduler has stochastic_sampling, whose noise no seed reaches; set it to false")
    return usable(getattr(diffusers, name).from_config(dict(config)))


def usable(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler itself, or the Euler one of the same configuration where its tail could not be run."""
    if type(scheduler).__name__ in EULER_INSTEAD:
        return EulerDiscreteScheduler.from_config(scheduler.config)
    return scheduler


def process_of(scheduler: SchedulerMixin) -> Process:
    """How this scheduler mixes latents and noise."""
    config = scheduler.config
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or _is_any(scheduler, FLOW_FORM):
        return Process.FLOW
    return Process.EDM if _is_any(scheduler, EDM_FORM) else Process.VP


def longest_schedule(scheduler: SchedulerMixin) -> int:
    """The most steps its schedules can have; flow schedules are continuous and end where floats do no more good."""
    if process_of(scheduler) is Process.FLOW:
        return LONGEST_FLOW
    return scheduler.config.get("original_inference_steps") or scheduler.config.num_train_timesteps


def sigmas_of(scheduler: SchedulerMixin) -> tuple[float, ...]:
    """The sigmas of the schedule that is set, with the final 0; from the cumulative alphas where it keeps none."""
    if getattr(scheduler, "sigmas", None) is not None:
        return tuple(float(s) for s in scheduler.sigmas)
    alphas = scheduler.alphas_cumprod.double()[scheduler.timesteps.long().cpu()]
    return (*((1.0 - alphas) / alphas).sqrt().tolist(), 0.0)


def probing(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy of `scheduler` that raises `Probed` with the schedule as soon as a pipeline has set it."""

    def probe(self: SchedulerMixin) -> None:
        raise Probed(sigmas_of(self), tuple(float(t) for t in self.timesteps))

    return _after_setting(scheduler, probe)


def tail_of(scheduler: SchedulerMixin, steps: int) -> SchedulerMixin:
    """A copy of `scheduler` whose schedules are literally the last `steps` steps of the stock one.

    Latents given to it are at its first noise level already: it does not scale them as it would scale pure noise.
    """

    def cut(self: SchedulerMixin) -> None:
        self.timesteps = self.timesteps[-steps:]
        if getattr(self, "sigmas", None) is not None:
            self.sigmas = self.sigmas[-steps - 1 :]
        if isinstance(self, LCMScheduler):  # knows its last step, which adds no noise, by this number
            self.num_inference_steps = steps

    return _after_setting(scheduler, cut, init_noise_sigma=property(lambda self: 1.0, lambda self, value: None))


def _after_setting(scheduler: SchedulerMixin, act: Any, **attributes: Any) -> SchedulerMixin:
    """A copy that acts after `set_timesteps`, whose signature, which pipelines inspect, it keeps."""
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)
    def set_timesteps(self: SchedulerMixin, *args: Any, **kwargs: Any) -> None:
        base.set_timesteps(self, *args, **kwargs)
        act(self)

    copy = base.from_config(scheduler.config)  # some set a schedule while they are made: that one is not acted on
    copy.__class__ = type(base.__name__, (base,), {"set_timesteps": set_timesteps, **attributes})
    return copy


@contextmanager
def swapped_scheduler(pipe: DiffusionPipeline, scheduler: SchedulerMixin) -> Iterator[None]:
    """Run with another scheduler and put the original object back, whatever happens."""
    original = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = original


def _is_any(scheduler: SchedulerMixin, names: tuple[str, ...]) -> bool:
    return any(base.__name__ in names for base in type(scheduler).__mro__)
