"""What is asked for: one frozen, validated value that every other part reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_PROMPT = 4000
MAX_SEED = 2**32 - 1
MAX_SEEDS = 16

SCHEDULES = ("paper", "split")
UPSAMPLERS = ("learned", "bicubic", "nearest", "pixel")
NOISES = ("coupled", "fresh")
BASELINES = ("native", "pixel")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One comparison: the prompt, the size, and how LSSGen divides the work.

    Args:
        prompt: what to draw, 1 to 4,000 characters.
        negative_prompt: what not to draw, up to 4,000 characters; for models with classifier-free guidance.
        height, width: size of the finished picture in pixels. The model's own multiple is checked by `plan()`.
        start: short side of the first stage in pixels. With `schedule="paper"` the first size is the target divided
            by a power of two; with `"split"` it is met exactly.
        steps: num_inference_steps of the native run, 1 to 1,000.
        sigma: sigma_init in (0, 1], the flow noise level at which each later stage starts.
        schedule: `"paper"` (the published step rule) or `"split"` (a share of a fixed budget).
        split: with `"split"`, the share of `steps` spent below the last stage, in (0, 1). `None` for `"paper"`.
        shorten: with `"paper"`, lower stages run a shorter schedule. `False` runs `steps`-step schedules throughout.
        seeds: one picture for each, generated as one batch, each 0 to 2**32 - 1.
        guidance_scale: `None` takes the model's own default.
        upsampler: `learned`, `bicubic` or `nearest` latents, or `pixel` (decode, bicubic, encode).
        noise: `coupled` (every stage's noise derives from the baseline's) or `fresh` (independent for each stage).
        baseline: `native` (the stock call at full size) or `pixel` (staged, scaled in pixel space).

    Raises:
        ValueError: naming the field, what it was, and a value that would work.
    """

    prompt: str
    height: int = 1024
    width: int = 1024
    start: int = 512
    steps: int = 20
    sigma: float = 0.75
    schedule: str = "paper"
    split: float | None = None
    shorten: bool = True
    seeds: tuple[int, ...] = (0,)
    guidance_scale: float | None = None
    upsampler: str = "learned"
    noise: str = "coupled"
    baseline: str = "native"
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if not self.prompt.strip():
            raise ValueError("prompt is empty; say what to draw, such as 'a glossy red apple'")
        _check_text("negative_prompt", self.negative_prompt)
        for name in ("height", "width", "start"):
            check_whole(name, getattr(self, name), 1, MAX_SIDE, "pixels")
        check_whole("steps", self.steps, 1, MAX_STEPS)
        check_sigma(self.sigma)
        for name, choices in (
            ("schedule", SCHEDULES),
            ("upsampler", UPSAMPLERS),
            ("noise", NOISES),
            ("baseline", BASELINES),
        ):
            _check_choice(name, getattr(self, name), choices)
        self._check_schedule()
        self._check_seeds()
        if self.guidance_scale is not None:
            check_real("guidance_scale", self.guidance_scale, 0.0, 100.0)

    def _check_schedule(self) -> None:
        if not isinstance(self.shorten, bool):
            raise ValueError(f"shorten is {self.shorten!r}; it must be True or False")
        if self.schedule == "paper" and self.split is not None:
            raise ValueError(f"split is {self.split!r} but schedule is 'paper'; use schedule='split', or no split")
        if self.schedule == "split":
            if self.split is None:
                raise ValueError("schedule is 'split' without a split; give a share such as split=0.5")
            check_split(self.split)
            if not self.shorten:
                raise ValueError("shorten=False belongs to schedule='paper'; with 'split' leave it True")

    def _check_seeds(self) -> None:
        if not isinstance(self.seeds, tuple) or not 1 <= len(self.seeds) <= MAX_SEEDS:
            raise ValueError(
                f"seeds is {_show(self.seeds)}; it must be a tuple of 1 to {MAX_SEEDS} seeds, such as (0,)"
            )
        for seed in self.seeds:
            check_whole("seed", seed, 0, MAX_SEED)


def check_whole(name: str, value: object, low: int, high: int, unit: str = "") -> None:
    """Refuse anything but an int in [low, high]. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        unit = f" {unit}" if unit else ""
        raise ValueError(f"{name} is {_show(value)}; it must be a whole number from {low} to {high}{unit}")


def check_real(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a finite number in [low, high]. Raises ValueError."""
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_show(value)}; it must be a number from {low:g} to {high:g}")


def check_sigma(value: object) -> None:
    """Refuse a sigma_init outside (0, 1]. Raises ValueError."""
    if not _is_number(value) or not 0.0 < value <= 1.0:
        raise ValueError(f"sigma is {_show(value)}; it must be above 0 and at most 1, such as 0.75")


def check_split(value: object) -> None:
    """Refuse a split share outside (0, 1). Raises ValueError."""
    if not _is_number(value) or not 0.0 < value < 1.0:
        raise ValueError(f"split is {_show(value)}; it must be above 0 and below 1, such as 0.5")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} is {_show(text)}; it must be text, such as 'a glossy red apple'")
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} has half a character (a lone surrogate); type it anew")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"{name} has {len(text):,} characters; at most {MAX_PROMPT:,} are taken")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {_show(value)}; it must be one of {', '.join(choices)}")


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print ints of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
