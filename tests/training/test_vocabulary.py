"""The words of the captions, as they are written into a model's folder."""

from __future__ import annotations

import csv
import subprocess
import sys

from lssgen.families.vocabulary import Vocabulary
from lssgen.training import data as D
from lssgen.training.vocabulary import vocabulary

LABELS = {
    "red apple": "food-drink",
    "piñata": "activities",
    "T-Rex": "animals-nature",
    "woman: red hair": "people-body",
}


def pictures() -> list[D.Picture]:
    rows = [
        D.Picture(f"{label}-{style}", style, label, group, ("fruit", "apples"), 256)
        for label, group in LABELS.items()
        for style in D.STYLES
    ]
    return [*rows, D.Picture("flag", "flat", "flag", "objects", (), 256)]


def test_names_grammar_and_keywords_are_told_apart():
    made = vocabulary(pictures())
    assert {"apple", "pinata", "rex", "woman", "next", "background", "gradient", "teal", "3d", "left"} <= made.words
    assert made.keywords == {"fruit", "apples"}
    assert made.unknown("glossy T-Rex next to a glossy piñata on a teal background") == []
    assert made.normalise("Apples, flat") == "flat apple"


def test_ideas_are_drawn_in_every_style_and_show_no_people():
    assert vocabulary(pictures()).ideas == ("T-Rex", "piñata", "red apple")


def test_the_script_writes_the_file(tmp_path):
    (tmp_path / "emoji").mkdir()
    with (tmp_path / "emoji" / "captions.csv").open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["file", "source", "style", "label", "group", "keywords", "size"])
        table.writerows([p.file, "x", p.style, p.label, p.group, "|".join(p.keywords), p.size] for p in pictures())
    command = [sys.executable, "-m", "lssgen.training.vocabulary", "--data", tmp_path, "--model", tmp_path]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "3 ideas" in said
    assert Vocabulary.read(tmp_path) == vocabulary(pictures())
