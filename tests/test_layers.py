"""A module imports only lower levels, and each big library only where it belongs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "request": 0,
    "process": 0,
    "sizes": 0,
    "worker": 0,
    "hub": 0,
    "options": 0,
    "events": 0,
    "spacefile": 1,
    "schedule": 1,
    "latents": 1,
    "upsampler": 2,
    "measured": 2,
    "previews": 1,
    "scoring": 1,
    "pictures": 1,
    "families": 3,
    "training": 4,
    "sampler": 4,
    "stream": 5,
    "engine": 6,
    "evaluation": 7,
    "report": 7,
    "sheet": 7,
    "bench": 7,
    "ui": 7,
    "__main__": 8,
}
ALLOWED = {
    "gradio": ("app.py", "lssgen/ui/"),
    "spaces": ("app.py",),
    "diffusers": ("lssgen/families/", "lssgen/sampler.py", "lssgen/upsampler/", "lssgen/training/"),
    "pyiqa": ("lssgen/scoring.py",),
}
SOURCES = [ROOT / "app.py", *sorted((ROOT / "lssgen").rglob("*.py"))]


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    name = str(path.relative_to(ROOT))
    inside = name.removeprefix("lssgen/").split("/")[0].removesuffix(".py")
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top in ALLOWED:
            assert name.startswith(ALLOWED[top]), f"{name} imports {top}"
        target = rest.split(".")[0]
        if top == "lssgen" and target in LEVELS and inside in LEVELS and target != inside:
            assert LEVELS[target] < LEVELS[inside], f"{name} (level {LEVELS[inside]}) imports lssgen.{target}"


def test_every_module_has_a_level():
    names = {p.stem if p.is_file() else p.name for p in (ROOT / "lssgen").iterdir() if p.name != "__pycache__"}
    assert names - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 350
