"""The engine: keeps one model loaded, plans, and runs both arms as a stream of events that can be stopped."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from math import ceil, log2

from lssgen import schedule
from lssgen.events import ArmFailed, ArmFinished, Event
from lssgen.families import table
from lssgen.families.base import Model
from lssgen.families.load import load
from lssgen.request import GenerationRequest
from lssgen.sampler import Emit, Stopped, run_arm
from lssgen.schedule import Plan, ScheduleSource

log = logging.getLogger(__name__)
Work = Callable[[Emit, threading.Event], None]


class Engine:
    """Plans and runs requests on one model at a time.

    Args:
        model: `embedded` or the path of a diffusers folder.
        device: where to run; a GPU if there is one by default.

    Raises:
        lssgen.families.table.ModelError: if there is no such model (its weights are loaded at first use).
    """

    def __init__(self, model: str = "embedded", device: str | None = None) -> None:
        self.settings = table.settings(model)
        self._name, self._device = model, device
        self._source: ScheduleSource = table.source(model)
        self._model: Model | None = None
        self._lock = threading.Lock()  # the stock scheduler is swapped during a run: one run at a time
        self.plan = lru_cache(maxsize=256)(self._plan)

    def _plan(self, request: GenerationRequest) -> Plan:
        """The stages of both arms. Quick, needs no weights. Raises ValueError."""
        if request.guidance_scale is not None and self.settings.guidance_scale is None:
            raise ValueError(f"guidance_scale is {request.guidance_scale:g}; this model has it built in: leave it out")
        return schedule.plan(request, self._source)

    def load(self) -> Model:
        """The loaded model; loads it on the first call. Raises ModelError."""
        if self._model is None:
            self._model = load(self._name, self._device)
        return self._model

    def warm_up(self, request: GenerationRequest | None = None) -> None:
        """Load the model and run each of the request's sizes for a step or two, untimed.

        First calls are slower (allocation, kernel choice) and would otherwise be charged to whichever arm ran first.
        """
        request = request or GenerationRequest(prompt="warm-up")
        fewest = ceil(log2(max(2.0, self.settings.base_side**2 / request.start**2)))
        for _ in self.compare(replace(request, steps=min(request.steps, fewest), schedule="paper", split=None)):
            pass

    def compare(self, request: GenerationRequest, stop: threading.Event | None = None) -> Iterator[Event]:
        """Run LSSGen, then the baseline. Closing the iterator stops the run within one denoiser step.

        A failing arm yields `ArmFailed` and the other arm still runs. `stop`, set by another thread, ends the run in
        the same way: an iterator that waits for its next event cannot be closed from outside.

        Raises:
            ValueError: for a request this model cannot run, before anything is run.
        """
        return self._stream(request, ("lssgen", "baseline"), stop)

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Run LSSGen alone; otherwise as `compare`."""
        return self._stream(request, ("lssgen",))

    def _stream(
        self, request: GenerationRequest, arms: tuple[str, ...], stop: threading.Event | None = None
    ) -> Iterator[Event]:
        plan = self.plan(request)
        stages = {"lssgen": plan.stages, "baseline": plan.baseline}
        upsamplers = {"lssgen": request.upsampler, "baseline": "pixel"}

        def work(emit: Emit, stop: threading.Event) -> None:
            with self._lock:
                model = self.load()
                for arm in arms:
                    emit(_run(model, request, stages[arm], arm, upsamplers[arm], emit, stop))

        return _in_thread(work, stop)


def _run(
    model: Model,
    request: GenerationRequest,
    stages: tuple[schedule.Stage, ...],
    arm: str,
    upsampler: str,
    emit: Emit,
    stop: threading.Event,
) -> ArmFinished | ArmFailed:
    try:
        return run_arm(model, request, stages, arm=arm, upsampler=upsampler, emit=emit, stop=stop)
    except Stopped:
        raise
    except ValueError as error:
        return ArmFailed(arm, str(error))
    except Exception as error:  # an arm that breaks must not take the other one, or the page, with it
        log.exception("the %s arm failed", arm)
        return ArmFailed(arm, f"{type(error).__name__}: {error}")


def _in_thread(work: Work, stop: threading.Event | None = None) -> Iterator[Event]:
    """The events of `work`, run in a thread of its own; closing the iterator sets `stop` and waits for the thread."""
    events: queue.Queue = queue.Queue()
    stop, done = stop or threading.Event(), object()

    def target() -> None:
        try:
            work(events.put, stop)
        except Stopped:
            pass
        except Exception as error:
            events.put(error)
        finally:
            events.put(done)

    thread = threading.Thread(target=target, name="lssgen-run", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not done:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        stop.set()
        thread.join()
