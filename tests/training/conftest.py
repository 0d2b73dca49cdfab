"""Pictures to train upsamplers on, and calibration on few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lssgen.training import calibration
from tests.training.drawings import drawing


@pytest.fixture(autouse=True, scope="package")
def few_crops():
    """Calibrate on a quarter of the crops: most of the time of a short training goes there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "CROPS", 48)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Twenty pictures in two folders."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(20):
        path = folder / ("a" if k % 2 else "b") / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        drawing(k).save(path)
    return folder
