"""The page on the tiny model: its configuration, raw control values, and a Studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lssgen import scoring
from lssgen.engine import Engine
from lssgen.scoring import TOPIQ_ENV
from lssgen.spacefile import AppConfig, Bounds, read
from lssgen.ui.models import Models
from lssgen.ui.session import Session
from lssgen.ui.studio import Studio


@pytest.fixture(scope="session")
def config(tiny_folder: Path) -> AppConfig:
    """The Spacefile's settings, at sizes the tiny model draws in a moment."""
    return replace(
        read().app,
        model=str(tiny_folder),
        allow_paths=True,
        width=Bounds(128, 64, 256),
        height=Bounds(128, 64, 256),
        start=Bounds(64, 32, 256),
        steps=Bounds(4, 2, 50),
    )


@pytest.fixture
def values(config: AppConfig) -> dict[str, object]:
    """What the browser sends when nothing was touched."""
    return {
        "prompt": "a red apple",
        "negative_prompt": "",
        "sigma": 0.75,
        "start": 64,
        "auto": True,
        "split": 0.5,
        "seed": config.seed,
        "random": False,
        "width": 128,
        "height": 128,
        "steps": 4,
        "guidance_scale": 3.5,
        "baseline": "native",
        "upsampler": "learned",
        "coupled": True,
        "model": config.model,
    }


@pytest.fixture
def studio(tiny_engine: Engine, config: AppConfig) -> Iterator[Studio]:
    made = Studio(Models(config.model, tiny_engine), config)
    yield made
    made.scorer.close()


@pytest.fixture
def session():
    visitor = Session()
    yield visitor
    visitor.close()


@pytest.fixture(autouse=True)
def no_topiq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TOPIQ's weights are not on this machine, whatever its caches hold."""
    monkeypatch.setenv(TOPIQ_ENV, str(tmp_path / "absent.pth"))
    scoring._built.pop("topiq", None)
