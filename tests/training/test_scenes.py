"""Everything painted is named and everything named is painted; what is held out never comes."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from lssgen.training import data, scenes

LABELS = ("cat", "house", "tree", "boat", "sun", "red apple")


@pytest.fixture(scope="module")
def pictures() -> list[data.Picture]:
    return [data.Picture(f"{s}{k}", s, label, "objects", (), 64) for s in data.STYLES for k, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def stack(pictures) -> np.ndarray:
    """Orange discs, 64 px, a different grey value in each one's middle."""
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 32) ** 2 + (columns - 32) ** 2 < 28**2
    out = np.zeros((len(pictures), 64, 64, 4), np.uint8)
    out[:, disc] = (240, 120, 20, 255)
    return out


def said(draw: scenes.Examples, example: scenes.Example) -> set[str]:
    """All captions it gets without keywords."""
    return {draw.caption(example, keywords=0.0) for _ in range(60)}


def test_captions_name_everything(pictures):
    draw = scenes.Examples(pictures, 0)
    assert "a flat red apple on an orange background" in said(draw, scenes.Example((5,), "orange"))
    assert {"cat, flat", "flat cat", "a cat in flat style"} <= said(draw, scenes.Example((0,)))
    assert "a flat cat next to a flat boat" in said(draw, scenes.Example((0, 3)))
    assert "flat cat above a flat boat at night" in said(draw, scenes.Example((0, 3), "night", place=scenes.ABOVE))
    assert "flat cat, house and tree on a red to navy gradient" in said(draw, scenes.Example((0, 1, 2), "red to navy"))
    assert "a small flat cat on the left" in said(draw, scenes.Example((0,), place="on the left"))
    assert "flat blue cat" in said(draw, scenes.Example((0,), hue="blue"))


def test_backgrounds_have_the_named_colours():
    plain = scenes.background_pixels("orange", 8)
    assert torch.equal(plain[:, 3, 3], torch.tensor(data.COLOURS["orange"], dtype=torch.float32))
    fade = scenes.background_pixels("red to navy", 64)
    for row, colour in ((0, "red"), (-1, "navy")):
        torch.testing.assert_close(fade[:, row, 0], torch.tensor(data.COLOURS[colour]).float(), atol=2, rtol=0)
    meadow = scenes.background_pixels("meadow", 64)
    assert meadow[2, 0, 0] > meadow[1, 0, 0] > meadow[0, 0, 0], "blue above"
    assert meadow[1, -1, 0] > meadow[0, -1, 0] > meadow[2, -1, 0], "green below"
    assert torch.equal(scenes.background_pixels(None, 8), torch.full((3, 8, 8), 255.0))


@pytest.mark.parametrize(("place", "side"), [("on the left", 1), ("at the bottom right", 3)])
def test_a_placed_object_stands_where_it_is_said(stack, place, side):
    alpha = scenes.rgba_of(scenes.Example((0,), place=place), stack)[..., 3] > 0
    rows, columns = np.nonzero(alpha)
    top, left = (quarter * 16 for quarter in scenes.PLACES[place])
    assert rows.min() >= top
    assert rows.max() < top + 32
    assert columns.min() >= left
    assert columns.max() < left + 32


@pytest.mark.parametrize("hue", list(scenes.HUES))
def test_turning_gives_the_named_hue(stack, hue):
    found = scenes.colours_of(scenes.turned(stack[0], hue))[0]
    assert abs((found - scenes.HUES[hue] + 180) % 360 - 180) < 3, "an 8-bit hue is 1.4 degrees"


def test_only_pictures_of_one_hue_whose_label_names_none_are_turned(pictures, stack):
    grey = stack.copy()
    grey[0, ..., :3] = 128
    assert scenes.of_one_hue(pictures, grey) == [i for i in range(1, 18) if pictures[i].label != "red apple"]


def test_drawn_scenes_are_of_one_style_and_never_of_a_held_out_pair(pictures, stack):
    draw = scenes.Examples(pictures, 0, hued=[1])
    drawn = [draw.scene() for _ in range(400)]
    for example in drawn:
        labels = [pictures[i].label for i in example.objects]
        assert len({pictures[i].style for i in example.objects}) == 1
        assert not any(data.held_out_pair(a, b) for k, a in enumerate(labels) for b in labels[:k])
    assert {len(e.objects) for e in drawn} == {1, 2, 3}
    assert all(e.objects == (1,) for e in drawn if e.hue)
    again = scenes.Examples(pictures, 0, hued=[1])
    assert [again.scene() for _ in range(400)] == drawn, "seeded"


def test_held_out_pairs_are_fixed_and_few():
    names = [str(k) for k in range(200)]
    held = {(a, b) for a in names for b in names if data.held_out_pair(a, b)}
    assert held == {(b, a) for a, b in held}, "in any order"
    assert 0.04 < len(held) / 200**2 < 0.06


def test_held_out_labels_are_fixed_and_few():
    pictures = [data.Picture("", "flat", str(k), "", (), 64) for k in range(100)]
    held = data.held_out_labels(pictures)
    assert len(held) == 5
    assert held == data.held_out_labels(random.Random(1).sample(pictures, 100)), "whatever the order"


def test_stored_and_restored(pictures):
    example = scenes.Example((3, 4), "red to navy", place=scenes.ABOVE)
    assert scenes.restored(json.loads(json.dumps(scenes.stored(example)))) == example


def test_painted_scenes_keep_their_background_and_size(stack):
    shown = scenes.pixels_of(scenes.Example((0, 1, 2), "teal"), stack)
    assert shown.shape == (3, 64, 64)
    torch.testing.assert_close(
        (shown[:, 0, 0] + 1) * 127.5, torch.tensor(data.COLOURS["teal"]).float(), atol=1e-3, rtol=0
    )
