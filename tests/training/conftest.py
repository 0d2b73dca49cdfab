"""Pictures to train upsamplers on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.drawings import drawing


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Twenty pictures in two folders."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(20):
        path = folder / ("a" if k % 2 else "b") / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        drawing(k).save(path)
    return folder
