"""What is told of an upsampler's measures."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from lssgen.__main__ import main
from lssgen.engine import Engine
from lssgen.measured import FILE, pixel_gain
from lssgen.request import GenerationRequest
from lssgen.upsampler import LatentUpsampler


def line(**learned: float) -> str:
    """As eval-upsampler prints it: the pixel round trip has 20 dB at each ratio."""
    rows = [{"method": "bicubic", "ratio": 2.0, "psnr": 30.0, "parameters": 0}]
    for ratio, psnr in ((float(name[1:].replace("_", ".")), psnr) for name, psnr in learned.items()):
        rows += [{"method": "pixel", "ratio": ratio, "psnr": 20.0, "parameters": 0}]
        rows += [{"method": "out/sdxl", "ratio": ratio, "psnr": psnr, "parameters": 9}]
    return json.dumps({"vae": "toy", "pictures": 6, "rows": rows}) + "\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / FILE).write_text(line(x1_5=18.0, x2=25.0, x2_5=20.0, x3=20.5, x4=20.5) + "\n" + line(x2=21.0))
    return tmp_path


@pytest.mark.parametrize(
    ("ratio", "gain"),
    [(1.2, 2.0), (1.5, 2.0), (1.75, 1.5), (1.99, 1.02), (2.0, -1.0), (3.0, -0.5), (4.0, -0.5), (8.0, -0.5)],
)
def test_what_pixel_is_ahead_is_interpolated(folder, ratio, gain):
    """The last line says of x2 that the learned one is 1 dB ahead, and nothing of the ratios near it."""
    assert pixel_gain(folder, ratio) == pytest.approx(gain)


def test_doublings_and_other_ratios_tell_of_themselves_alone(tmp_path):
    (tmp_path / FILE).write_text(line(x2=15.0))
    assert pixel_gain(tmp_path, 2.0) == pixel_gain(tmp_path, 4.0) == 5.0
    assert pixel_gain(tmp_path, 1.5) == -math.inf


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "no JSON",
        "[]",
        '{"rows": [{"ratio": "x", "method": "pixel", "psnr": 1, "parameters": 0}]}',
        line(x0=20.0),
        '{"rows": [{"ratio": 2.0}]}',
        '{"rows": 3}',
    ],
)
def test_a_folder_without_measures_tells_nothing(tmp_path, text):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert pixel_gain(tmp_path, 2.0) == -math.inf


def test_the_plan_says_where_pixel_is_ahead(tiny_folder, folder, capsys):
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2).save_pretrained(folder)
    engine = Engine(str(tiny_folder), upsampler=folder)

    def told(start: int, upsampler: str = "learned") -> list[str]:
        how = {"steps": 4, "schedule": "split", "split": 0.5, "upsampler": upsampler}
        plan = engine.plan(GenerationRequest(prompt="a", height=64, width=64, start=start, **how))
        return [note for note in plan.notes if "'pixel'" in note]

    assert told(32) == told(64) == told(40, "pixel") == []
    told_by_command = shutil.copytree(tiny_folder, folder / "model")
    shutil.copy(folder / FILE, told_by_command / "upsampler")
    size = ["--height", "64", "--width", "64", "--start", "40", "--steps", "4", "--split", "0.5"]
    assert main(["plan", "--model", str(told_by_command), *size]) == 0
    assert "(x1.6) the upsampler 'pixel' comes about 1.8 dB nearer" in capsys.readouterr().out
    (note,) = told(40)
    assert note.startswith("from 40 x 40 to 64 x 64 (x1.6) the upsampler 'pixel' comes about 1.8 dB nearer")
