"""What the page shows, as one value, and how a run's events change it. No component and no HTML here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lssgen.events import ArmFailed, ArmFinished, Event, Scored, StageFinished, StageStarted, Stepped
from lssgen.request import GenerationRequest
from lssgen.schedule import Plan, Stage
from lssgen.scoring import Score

if TYPE_CHECKING:
    from PIL.Image import Image

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
IDLE, LOADING = "idle", "loading"


@dataclass(frozen=True)
class ArmView:
    """One arm: how far it is and all it has made. `index` and `step` are those of the stage and step at hand."""

    status: str = WAITING
    planned: tuple[Stage, ...] = ()
    index: int = 0
    step: int = 0
    preview: Image | None = None
    stages: tuple[StageFinished, ...] = ()
    result: ArmFinished | None = None
    message: str = ""
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def decoded(self) -> StageFinished | None:
        """The stage at hand if its exact decode is there, else None."""
        return self.stages[-1] if self.stages and self.stages[-1].index == self.index else None

    @property
    def fraction(self) -> float:
        """Share of the predicted cost already spent, 0 to 1."""
        if self.status == DONE:
            return 1.0
        spent = sum(stage.cost for stage in self.planned[: self.index])
        if self.index < len(self.planned):
            stage = self.planned[self.index]
            spent += stage.cost * self.step / stage.num_steps
        return spent / max(sum(stage.cost for stage in self.planned), 1e-9)


@dataclass(frozen=True)
class ViewState:
    """The run the page shows: `phase` is idle, waiting, loading, running, done, stopped or failed."""

    phase: str = IDLE
    message: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    request: GenerationRequest | None = None
    plan: Plan | None = None
    lssgen: ArmView = field(default_factory=ArmView)
    baseline: ArmView = field(default_factory=ArmView)
    scoring: bool = False

    @property
    def arms(self) -> dict[str, ArmView]:
        return {"lssgen": self.lssgen, "baseline": self.baseline}

    @property
    def speedup(self) -> float | None:
        """Measured denoising seconds of the baseline over those of LSSGen."""
        return self._ratio("denoise")

    @property
    def total_speedup(self) -> float | None:
        """Measured seconds of the whole baseline arm over those of the LSSGen arm, previews left out."""
        return self._ratio("total")

    def _ratio(self, phase: str) -> float | None:
        if self.lssgen.result is None or self.baseline.result is None:
            return None
        ours, theirs = (getattr(arm.result.seconds, phase) for arm in (self.lssgen, self.baseline))
        return theirs / ours if ours > 0 else None


def begin(request: GenerationRequest, plan: Plan, facts: dict[str, str]) -> ViewState:
    """A run that is about to start, with nothing made yet; `facts` as `Engine.facts` gives them."""
    return ViewState(
        phase=RUNNING,
        facts=facts,
        request=request,
        plan=plan,
        lssgen=ArmView(planned=plan.stages),
        baseline=ArmView(planned=plan.baseline),
    )


def advance(state: ViewState, event: Event) -> ViewState:
    """The state after one event. Nothing that was made is ever taken away."""
    arm = state.arms[event.arm]
    match event:
        case StageStarted():
            arm = replace(arm, status=RUNNING, index=event.index, step=0)
        case Stepped():
            arm = replace(arm, status=RUNNING, index=event.index, step=event.step, preview=event.preview or arm.preview)
        case StageFinished():
            arm = replace(arm, stages=(*arm.stages, event), step=event.num_steps)
        case ArmFinished():
            arm = replace(arm, status=DONE, result=event, stages=event.stages)
        case ArmFailed():
            arm = replace(arm, status=FAILED, message=event.message)
        case Scored():
            arm = replace(arm, scores={**arm.scores, **(event.scores[0] if event.scores else {})})
    return replace(state, **{event.arm: arm})


def finish(state: ViewState) -> ViewState:
    """The state when the events are over: done if both arms came to an end of their own, else stopped."""
    over = [arm.status in (DONE, FAILED) for arm in state.arms.values()]
    if all(over):
        return replace(state, phase=DONE)
    arms = {
        name: arm if arm.status in (DONE, FAILED) else replace(arm, status=STOPPED) for name, arm in state.arms.items()
    }
    return replace(state, phase=STOPPED, **arms)
