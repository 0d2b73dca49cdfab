"""The engine: keeps one model loaded, plans, and runs both arms as a stream of events that can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lssgen import schedule
from lssgen.events import ArmFailed, ArmFinished, Event
from lssgen.families import folders
from lssgen.families.base import Model
from lssgen.families.load import fetch, free_memory, load
from lssgen.families.placement import less_memory, out_of_memory, placement
from lssgen.families.prompts import PromptReader
from lssgen.hub import Progress
from lssgen.measured import ratio_notes
from lssgen.options import training_command
from lssgen.request import GenerationRequest
from lssgen.sampler import Emit, Stop, Stopped, run_arm
from lssgen.schedule import Plan, ScheduleSource, Stage
from lssgen.sizes import size_text
from lssgen.stream import stream
from lssgen.worker import in_worker

log = logging.getLogger(__name__)


class Engine:
    """Plans and runs requests on one model. Runs of all engines take turns: there is one worker thread.

    Args:
        model: `embedded`, the path of a diffusers folder, or a hub id, OWNER/NAME or OWNER/NAME@REVISION.
        device, dtype, offload: where and how to run; see `lssgen.families.placement.placement`.
        upsampler: an upsampler's folder, in place of the model's own.

    Attributes:
        name: the model, as it was named.
        settings: how the model wants to be run.
        has_upsampler: whether there is a learned upsampler for it.
        vocabulary: the words it was trained on, None where its folder does not tell.

    Raises:
        lssgen.families.table.ModelError: if there is no such model (its weights are loaded at first use).
        ValueError: for a device that is not here, or another dtype or offload.
    """

    def __init__(
        self,
        model: str = "embedded",
        device: str | None = None,
        *,
        dtype: str | None = None,
        offload: str | None = None,
        upsampler: Path | None = None,
    ) -> None:
        self._place = placement(device, dtype, offload)
        self.settings = folders.settings(model)
        self.name, self._upsampler = model, upsampler
        self._guided_above = folders.family_at(model).adapter_class().guided_above
        self._source: ScheduleSource = folders.source(model)
        self._model: Model | None = None
        self._learned = folders.upsampler_folder(model, upsampler)
        self.has_upsampler = self._learned is not None
        self.vocabulary = folders.vocabulary(model)
        self._reader = PromptReader(folders.resolve(model), self.settings.max_sequence_length, self.vocabulary)

    def plan(self, request: GenerationRequest) -> Plan:
        """The stages of both arms, with notes on what is not as asked. Quick, needs no weights. Raises ValueError."""
        if request.guidance_scale is not None and self.settings.guidance_scale is None:
            raise ValueError(f"guidance_scale is {request.guidance_scale:g}; this model has it built in: leave it out")
        if request.negative_prompt and not self.settings.takes_negative:
            raise ValueError("negative_prompt is given; this model takes none: leave it out")
        guidance = self.filled(request).guidance_scale
        if request.negative_prompt and guidance is not None and guidance <= self._guided_above:
            raise ValueError(
                f"negative_prompt is given but guidance_scale is {guidance:g}; it acts above {self._guided_above:g}: "
                "raise it, or leave the negative prompt out"
            )
        plan = schedule.plan(request, self._source)
        if len(plan.stages) > 1 and request.upsampler == "learned" and not self.has_upsampler:
            raise ValueError(
                "upsampler is 'learned' but this model has none; use 'bicubic' or 'pixel', or train one: "
                f"{training_command(self.name)}"
            )
        notes = [*plan.notes, *self._reader.notes(request.prompt)]
        if len(plan.stages) > 1 and not self.has_upsampler:
            notes.append(f"no learned upsampler fits this model; to train one: {training_command(self.name)}")
        if self._learned and request.upsampler == "learned":
            notes += ratio_notes(self._learned, plan.stages)
        return replace(plan, notes=tuple(notes))

    @property
    def dtype(self) -> str:
        """The name of the precision it runs in."""
        return self._place.dtype_name

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._model is not None

    def facts(self, request: GenerationRequest) -> dict[str, str]:
        """What a record of a run tells beside its request: `model`, `device`, `dtype`, and for learned upsampling as
        `upsampler_from` the upsampler's folder, one of this repository's from its top."""
        facts = {"model": self.name, "device": str(self._place.device), "dtype": self.dtype}
        if self._learned and request.upsampler == "learned":
            ours = self._learned.is_relative_to(folders.ASSETS)
            shown = self._learned.relative_to(folders.ASSETS.parent) if ours else self._learned
            facts["upsampler_from"] = shown.as_posix()
        return facts

    def fetch(self, progress: Progress | None = None) -> None:
        """Download what is not on this machine yet, of a model named by its hub id.

        `progress` is told the share and what to say; what it raises breaks the download off. Raises ModelError.
        """
        if not self.loaded:
            fetch(self.name, self._place, progress)

    def load(self) -> Model:
        """The loaded model; loads it on the first call. Raises ModelError."""
        return self._model or in_worker(self._load)

    def unload(self) -> None:
        """Let go of the weights, after whatever is running; the next run loads them again."""
        in_worker(self._unload)

    def warm_up(self, request: GenerationRequest | None = None) -> None:
        """Load the model and run one step at each size of the request's plan, untimed.

        First calls are slower (allocation, kernel choice) and would otherwise be charged to whichever arm ran first.

        Raises:
            ValueError: for a request this model cannot run.
        """
        request = request or GenerationRequest(prompt="warm-up")
        single = self.filled(replace(request, seeds=request.seeds[:1]))
        arms = self._arms(single)

        def work() -> None:
            model = self._load()
            for arm, (stages, upsampler) in arms.items():
                run_arm(model, single, tuple(map(_last_step, stages)), arm=arm, upsampler=upsampler)

        in_worker(work)

    def compare(
        self, request: GenerationRequest, stop: threading.Event | None = None, *, baseline_first: bool = False
    ) -> Iterator[Event]:
        """Run LSSGen and the baseline.

        A failing arm yields `ArmFailed` and the other arm still runs. Closing the iterator ends the run within one
        denoiser step, and so does setting `stop` from another thread. The listener's own time is charged to no arm.

        Args:
            request: what to run.
            stop: ends the run when set.
            baseline_first: run the baseline first; benchmarks alternate the order.

        Raises:
            ValueError: for a request this model cannot run, before anything is run.
        """
        return self._stream(request, ("baseline", "lssgen") if baseline_first else ("lssgen", "baseline"), stop)

    def generate(self, request: GenerationRequest, stop: threading.Event | None = None) -> Iterator[Event]:
        """Run LSSGen alone; otherwise as `compare`."""
        return self._stream(request, ("lssgen",), stop)

    def _stream(
        self, request: GenerationRequest, names: tuple[str, ...], stop: threading.Event | None
    ) -> Iterator[Event]:
        request = self.filled(request)
        arms = self._arms(request)

        def work(emit: Emit, stopped: Stop) -> None:
            model = self._load()
            for arm in names:
                emit(_run(model, request, *arms[arm], arm, emit, stopped))

        return stream(work, stop)

    def _load(self) -> Model:
        if self._model is None:
            self._model = load(self.name, self._place, self._upsampler)
        return self._model

    def _unload(self) -> None:
        self._model = None
        free_memory()

    def filled(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the prompt as the model reads it, and its own guidance_scale where none was asked for."""
        scale = self.settings.guidance_scale if request.guidance_scale is None else request.guidance_scale
        return replace(request, prompt=self._reader.read(request.prompt), guidance_scale=scale)

    def _arms(self, request: GenerationRequest) -> dict[str, tuple[tuple[Stage, ...], str]]:
        plan = self.plan(request)
        return {"lssgen": (plan.stages, request.upsampler), "baseline": (plan.baseline, "pixel")}


def _last_step(stage: Stage) -> Stage:
    return replace(stage, sigmas=stage.sigmas[-2:], timesteps=stage.timesteps[-1:])


def _run(
    model: Model,
    request: GenerationRequest,
    stages: tuple[Stage, ...],
    upsampler: str,
    arm: str,
    emit: Emit,
    stopped: Stop,
) -> ArmFinished | ArmFailed:
    try:
        return run_arm(model, request, stages, arm=arm, upsampler=upsampler, emit=emit, stopped=stopped)
    except Stopped:
        raise
    except Exception as error:  # an arm that breaks must not take the other one, or the page, with it
        if out_of_memory(error):
            size, device = size_text((stages[-1].height, stages[-1].width)), model.adapter.pipe._execution_device
            return ArmFailed(arm, f"there is not enough memory for {size} on {device}; {less_memory(device)}")
        log.exception("the %s arm failed", arm)
        return ArmFailed(arm, f"{type(error).__name__}: {error}")
