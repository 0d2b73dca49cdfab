"""A contact sheet: every prompt of a list natively and by LSSGen, one above the other, nothing picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten

from PIL import Image, ImageDraw, ImageFont

from lssgen.engine import Engine
from lssgen.events import ArmFailed, ArmFinished
from lssgen.request import GenerationRequest

TILE, GAP, LABEL, COLUMNS = 256, 12, 24, 6


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are skipped. Raises ValueError if there are none."""
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); name a text file with one prompt a line") from error
    if not prompts:
        raise ValueError(f"{path} has no prompts; write one a line")
    return prompts


def contact_sheet(
    engine: Engine, prompts: Sequence[str], request: GenerationRequest, progress: Callable[[str], None] = print
) -> Image.Image:
    """Run both arms for every prompt with the settings of `request` and lay the pictures out in pairs.

    Raises:
        RuntimeError: if an arm fails.
        ValueError: for a request the model cannot run.
    """
    pairs = []
    for number, prompt in enumerate(prompts, 1):
        arms = {}
        for event in engine.compare(replace(request, prompt=prompt)):
            if isinstance(event, ArmFailed):
                raise RuntimeError(f"{prompt!r}: the {event.arm} arm failed: {event.message}")
            if isinstance(event, ArmFinished):
                arms[event.arm] = event.images[0]
        pairs.append((prompt, arms["baseline"], arms["lssgen"]))
        progress(f"{number} of {len(prompts)}: {prompt}")
    return _lay_out(pairs)


def _lay_out(pairs: list[tuple[str, Image.Image, Image.Image]]) -> Image.Image:
    """Each pair is a column of label, baseline, LSSGen; six columns to a row."""
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    height = LABEL + 2 * TILE + GAP
    sheet = Image.new("RGB", (GAP + columns * (TILE + GAP), GAP + rows * (height + GAP)), "#f2f2f0")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (prompt, *pictures) in enumerate(pairs):
        x, y = GAP + i % columns * (TILE + GAP), GAP + i // columns * (height + GAP)
        draw.text((x, y), _label(prompt, font), fill="#222222", font=font)
        for k, (name, picture) in enumerate(zip(("native", "LSSGen"), pictures, strict=True)):
            top = y + LABEL + k * (TILE + GAP // 2)
            small = picture.copy()
            small.thumbnail((TILE, TILE), Image.LANCZOS)
            sheet.paste(small, (x, top))
            draw.text((x + 6, top + TILE - 20), name, fill="#777777", font=font)
    return sheet


def _label(prompt: str, font: ImageFont.FreeTypeFont) -> str:
    """The prompt, cut after a word where it is wider than a tile."""
    cuts = (shorten(prompt, length, placeholder=" …") for length in range(len(prompt), 0, -1))
    return next(cut for cut in cuts if font.getlength(cut) <= TILE)
