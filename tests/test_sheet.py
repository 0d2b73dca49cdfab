"""Labels of the contact sheet keep to their own column."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from lssgen import sheet


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("glossy red apple", "glossy red apple"),
        ("glossy woman's boot on a purple background", "glossy woman's boot on a purple …"),
        ("W" * 60, "…"),
    ],
)
def test_labels_are_cut_at_a_word(prompt, label):
    font = ImageFont.load_default(13)
    assert sheet._label(prompt, font) == label
    assert font.getlength(label) <= sheet.TILE
