"""The Spacefile: the Space's metadata and the page's defaults and bounds, read and checked in one place.

python -m lssgen.spacefile README.md     rewrite the front matter (between the leading `---` lines) of README.md
python -m lssgen.spacefile               print it
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lssgen.request import BASELINES, MAX_PROMPT, MAX_SEED, MAX_SIDE, MAX_STEPS, NOISES, UPSAMPLERS

PATH = Path(__file__).resolve().parents[1] / "Spacefile"
FENCE = "---\n"
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
REQUIRED = {
    "title": str,
    "emoji": str,
    "colorFrom": str,
    "colorTo": str,
    "sdk": str,
    "sdk_version": str,
    "python_version": str,
    "app_file": str,
    "pinned": bool,
    "license": str,
    "short_description": str,
}
OPTIONAL = {"tags": list, "models": list, "datasets": list, "suggested_hardware": str, "thumbnail": str}
MAX_DESCRIPTION = 60  # characters the hub shows
MAX_BOUND = 1e6  # of any control; each has a limit of its own below it


class SpacefileError(ValueError):
    """The Spacefile cannot be used; the message names the key and what it must be."""


@dataclass(frozen=True)
class Bounds:
    """A number's default and the range a visitor may set, both ends included."""

    default: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """The `app:` part: what each control of the page starts with and how far it goes."""

    model: str
    allow_paths: bool
    queue: int
    prompt: str
    examples: tuple[str, ...]
    width: Bounds
    height: Bounds
    steps: Bounds
    sigma: Bounds
    start: Bounds
    split: Bounds
    guidance_scale: Bounds
    seed: int
    upsampler: str
    noise: str
    baseline: str


@dataclass(frozen=True)
class Spacefile:
    """`space`: the Hugging Face README keys, in order; `app`: the page's settings."""

    space: dict[str, Any]
    app: AppConfig


WHOLE_BOUNDS = {"width": MAX_SIDE, "height": MAX_SIDE, "start": MAX_SIDE, "steps": MAX_STEPS}
REAL_BOUNDS = {"sigma": 1.0, "split": 1.0, "guidance_scale": 100.0}
CHOICES = {"upsampler": UPSAMPLERS, "noise": NOISES, "baseline": BASELINES}


def read(path: Path = PATH) -> Spacefile:
    """Read and check a Spacefile.

    Raises:
        SpacefileError: if it is missing, not YAML, or a key is missing, unknown or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpacefileError(f"{path} cannot be read ({error.strerror}); restore it from the repository") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date such as 2026-13-01
        raise SpacefileError(f"{path} is not valid YAML: {error}") from error
    return parse(content)


def parse(content: object) -> Spacefile:
    """Check a Spacefile's content. Raises SpacefileError."""
    top = _mapping("Spacefile", content)
    _check_keys("Spacefile", top, required={"space", "app"}, optional=set())
    return Spacefile(_space(_mapping("space", top["space"])), _app(_mapping("app", top["app"])))


def front_matter(spacefile: Spacefile) -> str:
    """The README's front matter, with both `---` lines, as Hugging Face reads it."""
    return FENCE + yaml.safe_dump(spacefile.space, sort_keys=False, allow_unicode=True, width=120) + FENCE


def with_front_matter(text: str, spacefile: Spacefile) -> str:
    """`text` with its front matter replaced, or put before it where there is none."""
    body = text
    if text.startswith(FENCE):
        end = text.find("\n" + FENCE, len(FENCE) - 1)
        if end < 0:
            raise SpacefileError("the README begins with --- but has no second --- line; close its front matter")
        body = text[end + 1 + len(FENCE) :]
    return front_matter(spacefile) + body


def _space(space: dict[str, Any]) -> dict[str, Any]:
    known = REQUIRED | OPTIONAL
    _check_keys("space", space, required=set(REQUIRED), optional=set(OPTIONAL))
    for key, value in space.items():
        if type(value) is not known[key]:
            raise SpacefileError(
                f"space.{key} is {value!r}; it must be a {known[key].__name__} (quote version numbers)"
            )
    for key in ("colorFrom", "colorTo"):
        if space[key] not in COLOURS:
            raise SpacefileError(f"space.{key} is {space[key]!r}; it must be one of {', '.join(COLOURS)}")
    if len(space["short_description"]) > MAX_DESCRIPTION:
        raise SpacefileError(f"space.short_description is longer than {MAX_DESCRIPTION} characters; shorten it")
    return space


def _app(app: dict[str, Any]) -> AppConfig:
    _check_keys("app", app, required={field.name for field in fields(AppConfig)}, optional=set())
    values = dict(app)
    for key in (*WHOLE_BOUNDS, *REAL_BOUNDS):
        values[key] = _bounds(f"app.{key}", app[key], whole=key in WHOLE_BOUNDS)
    for key, limit in (WHOLE_BOUNDS | REAL_BOUNDS).items():
        if values[key].max > limit:
            raise SpacefileError(f"app.{key}.max is {values[key].max:g}; it can be at most {limit:g}")
    for key, choices in CHOICES.items():
        if app[key] not in choices:
            raise SpacefileError(f"app.{key} is {app[key]!r}; it must be one of {', '.join(choices)}")
    for key, kind in (("model", str), ("prompt", str), ("allow_paths", bool), ("queue", int), ("seed", int)):
        if type(app[key]) is not kind:
            raise SpacefileError(f"app.{key} is {app[key]!r}; it must be a {kind.__name__}")
    if not 0 < len(app["prompt"].strip()) <= MAX_PROMPT:
        raise SpacefileError(f"app.prompt must have 1 to {MAX_PROMPT:,} characters")
    if app["queue"] < 1:
        raise SpacefileError(f"app.queue is {app['queue']}; it must be 1 or more")
    if not 0 <= app["seed"] <= MAX_SEED:
        raise SpacefileError(f"app.seed is {app['seed']}; it must be 0 to {MAX_SEED}")
    if not isinstance(app["examples"], list) or not all(isinstance(e, str) and e.strip() for e in app["examples"]):
        raise SpacefileError("app.examples must be a list of prompts")
    values["examples"] = tuple(app["examples"])
    return AppConfig(**values)


def _bounds(name: str, value: object, *, whole: bool) -> Bounds:
    content = _mapping(name, value)
    _check_keys(name, content, required={"default", "min", "max"}, optional=set())
    kinds = (int,) if whole else (int, float)
    zero = name.endswith(".guidance_scale")  # distilled models run at 0
    for key, number in content.items():
        if type(number) not in kinds or not (0 < number < MAX_BOUND or (zero and number == 0)):
            kind = "whole number" if whole else "number"
            least = "of at least 0" if zero else "above 0"
            raise SpacefileError(f"{name}.{key} is {number!r}; it must be a {kind} {least} and below {MAX_BOUND:g}")
    bounds = Bounds(**content)
    if not bounds.min <= bounds.default <= bounds.max:
        raise SpacefileError(f"{name}: default {bounds.default:g} is not within min {bounds.min:g}..max {bounds.max:g}")
    return bounds


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpacefileError(f"{name} must be a mapping of keys to values, not {type(value).__name__}")
    return value


def _check_keys(name: str, content: dict, *, required: set[str], optional: set[str]) -> None:
    missing, unknown = required - set(content), set(map(str, content)) - required - optional
    if missing:
        raise SpacefileError(f"{name} lacks {', '.join(sorted(missing))}")
    if unknown:
        raise SpacefileError(f"{name} has unknown keys: {', '.join(sorted(unknown))}")


def main(argv: list[str] | None = None) -> int:
    """Rewrite or print the front matter; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lssgen.spacefile", description="Render the README front matter.")
    parser.add_argument("readme", nargs="?", type=Path, help="README.md to rewrite in place; printed if left out")
    readme = parser.parse_args(argv).readme
    try:
        spacefile = read()
        if readme is None:
            print(front_matter(spacefile), end="")
            return 0
        text = readme.read_text(encoding="utf-8") if readme.exists() else ""
        readme.write_text(with_front_matter(text, spacefile), encoding="utf-8")
    except SpacefileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
