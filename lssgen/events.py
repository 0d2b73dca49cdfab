"""What a run reports while it goes on. Events carry CPU pictures and floats, never device tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ARMS = ("lssgen", "baseline")


@dataclass(frozen=True)
class StageStarted:
    """Stage `index` (from 0) of an arm begins."""

    arm: str
    index: int
    height: int
    width: int
    num_steps: int


@dataclass(frozen=True)
class Stepped:
    """Denoiser step `step` (from 1) of a stage is done; `preview` is a small estimate of the clean picture."""

    arm: str
    index: int
    step: int
    num_steps: int
    preview: Image | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage reached sigma 0; `images` are its exact decodes, one for each seed, `seconds` its denoising alone."""

    arm: str
    index: int
    height: int
    width: int
    num_steps: int
    seconds: float
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Seconds:
    """Where an arm's time went. `total` is all but `preview`, which the same run without a page would not spend."""

    text: float = 0.0
    denoise: float = 0.0
    upsample: float = 0.0
    decode: float = 0.0
    total: float = 0.0
    preview: float = 0.0


@dataclass(frozen=True)
class ArmFinished:
    """An arm is done: its pictures, one for each seed, its stages in order and its timings."""

    arm: str
    images: tuple[Image, ...]
    stages: tuple[StageFinished, ...]
    seconds: Seconds


@dataclass(frozen=True)
class ArmFailed:
    """An arm broke off; whatever it reported before stays valid."""

    arm: str
    message: str


@dataclass(frozen=True)
class Scored:
    """Scores of an arm's pictures, one mapping of metric name to `lssgen.scoring.Score` for each seed."""

    arm: str
    scores: tuple[dict, ...] = field(default_factory=tuple)


Event = StageStarted | Stepped | StageFinished | ArmFinished | ArmFailed | Scored
