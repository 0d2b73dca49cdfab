"""The whole evaluation of the shipped model on a few small pictures; it goes on from its folder, and guards it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from lssgen.__main__ import main
from lssgen.evaluation import embedded
from lssgen.evaluation.commands import text
from lssgen.training import eval_upsampler
from tests import emoji

LABELS = [f"thing {k}" for k in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return emoji.make(tmp_path_factory.mktemp("data"), LABELS)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def command(folder, work, *more: str) -> list[str]:
    return ["eval-embedded", "--data", str(folder), "--work", str(work), "--side", "128", "--steps", "8", *more]


@pytest.fixture(scope="module")
def report(folder, work) -> dict:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(command(folder, work, "--share", "0.01", "--json")) == 0
    return json.loads(out.getvalue())


def test_everything_is_reported(report):
    assert set(report["alignment"]) == {"native", "lssgen"}
    for arm in report["alignment"].values():
        assert arm["labels"]["pictures"] == 2
        assert all(0 <= arm["labels"][key] <= 1 for key in ("label_top5", "label_top1", "style"))
        assert arm["held_out_pairs"]["pictures"] == 1
    assert set(report["reconstruction"]) == {"512", "1024"}
    assert report["reconstruction"]["512"]["psnr"] > 20
    assert {row["method"] for row in report["upsampler"]["256 -> 512"]} == {"learned", *eval_upsampler.PLAIN}
    assert set(report["spectrum"]) == {"pictures", "native", *(f"lssgen {s}" for s in ("0.3", "0.5", "0.75", "0.9"))}
    assert "reconstruction at 512 px" in text(report)


def test_nothing_is_drawn_twice(report, folder, work, monkeypatch):
    """An evaluation that was broken off goes on where it was."""
    monkeypatch.setattr(embedded, "latents_measured", lambda *_: {})
    monkeypatch.setattr(embedded.Painter, "_draw", lambda *_: pytest.fail("drawn again"))
    assert main(command(folder, work, "--share", "0.01", "--json")) == 0


def test_one_part_alone(report, folder, work, capsys):
    assert main(command(folder, work, "--share", "0.01", "--only", "spectrum", "--json")) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["spectrum"] == report["spectrum"]
    assert "alignment" not in alone
    assert "upsampler" not in alone
    assert text(alone).startswith("spectrum, native")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "9"], "other weights or settings"),
        (["--share", "0"], "share is 0"),
        (["--side", "100"], "multiple"),
        (["--data", "/nowhere"], "--data"),
    ],
)
def test_bad_input_is_one_line(report, folder, work, capsys, more, message):
    assert main(command(folder, work, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
