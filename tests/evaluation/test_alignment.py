"""A painter that paints what is asked scores all, one that paints something else nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lssgen.evaluation import alignment, asked, nearest
from lssgen.training import data, scenes

LABELS = [f"thing {k}" for k in range(40)]


@pytest.fixture(scope="module")
def pictures() -> list[data.Picture]:
    return [data.Picture("", s, label, "objects", (), 512) for s in data.STYLES for label in LABELS]


@pytest.fixture(scope="module")
def stack(pictures) -> np.ndarray:
    """Blocks of random colours on a square that leaves the border free."""
    rng = np.random.default_rng(0)
    out = np.zeros((len(pictures), 64, 64, 4), np.uint8)
    blocks = rng.integers(0, 256, (len(pictures), 6, 6, 3), dtype=np.uint8)
    out[:, 8:56, 8:56, :3] = blocks.repeat(8, 1).repeat(8, 2)
    out[:, 8:56, 8:56, 3] = 255
    return out


@pytest.fixture(scope="module")
def gallery(pictures, stack) -> nearest.Gallery:
    return nearest.Gallery(pictures, stack)


@pytest.fixture
def painter(stack):
    return lambda a: (scenes.pixels_of(a.example, stack) + 1) * 127.5


def test_prompts_are_fixed_and_pairs_are_held_out(pictures):
    assert len(asked.labels(pictures)) == 200
    assert asked.labels(pictures) == asked.labels(pictures)
    for held_out, count in ((False, 100), (True, 50)):
        found = asked.scenes(pictures, held_out)
        assert len(found) == count
        for a in found:
            left, right = (pictures[i] for i in a.example.objects)
            assert data.held_out_pair(left.label, right.label) == held_out
            assert a.text.startswith(f"a {left.style} {left.label} next to a {left.style} {right.label} on a")
            assert a.text.endswith(f"{a.example.background} background")


def test_what_is_painted_as_asked_scores_all(pictures, gallery, painter):
    labels = alignment.of_labels(asked.labels(pictures)[:40], painter, gallery)
    assert labels == {"pictures": 40, "label_top5": 1.0, "label_top1": 1.0, "style": 1.0}
    found = alignment.of_scenes(asked.scenes(pictures, False)[:10], painter, gallery)
    assert found["background"] == found["left_object"] == found["right_object"] == found["both_objects"] == 1.0
    assert found["median_distance"] > 10, "a scene of two is no training picture"


def test_mirrored_scenes_have_no_object_on_its_side(pictures, gallery, painter):
    found = alignment.of_scenes(asked.scenes(pictures, False)[:10], lambda a: painter(a).flip(2), gallery)
    assert found["background"] == 1.0
    assert found["both_objects"] < 0.2


def test_something_else_scores_nothing(pictures, gallery):
    def grey(a):
        return torch.full((3, 64, 64), 128.0)

    labels = alignment.of_labels(asked.labels(pictures)[:40], grey, gallery)
    assert labels["label_top5"] <= 5 / 40 + 0.1
    found = alignment.of_scenes(asked.scenes(pictures, False)[:8], grey, gallery)
    assert found["background"] < 0.5, "only grey ones"


def test_nearest_is_the_picture_itself_at_any_size(pictures, stack, gallery):
    shown = scenes.pixels_of(scenes.Example((7,)), stack)
    large = torch.nn.functional.interpolate(shown[None], scale_factor=4)[0]
    ranked, distance = gallery.ranked((large + 1) * 127.5)
    assert ranked[0] == 7
    assert distance < 0.01
    assert gallery.top_labels(ranked)[0] == pictures[7].label


def test_border_distance():
    picture = torch.zeros(3, 100, 100)
    picture[:, 10:90, 10:90] = 255.0
    assert nearest.border_distance(picture, (0, 0, 0)) == 0.0
    assert nearest.border_distance(picture, (30, 40, 0)) == pytest.approx(50.0)


def test_seeds_that_change_nothing_are_no_diversity(pictures, painter):
    found = alignment.of_seeds(asked.seeds(pictures)[:3], painter)
    assert found["between_seeds"] == 0.0
    assert found["between_prompts"] > 0.0
    assert (found["prompts"], found["seeds"]) == (3, 4)
