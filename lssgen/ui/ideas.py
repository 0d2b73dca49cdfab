"""Prompts to begin with: of the model's own words where it brings them, else of what any large model draws."""

from __future__ import annotations

import random

from lssgen.families.vocabulary import Vocabulary

GENERAL = (
    "a lighthouse on a cliff at dusk, waves below",
    "a red fox asleep in fresh snow",
    "a bowl of ramen on a wooden table, seen from above",
    "an old tram in a narrow street after rain",
    "a glass greenhouse full of ferns, morning light",
    "a paper boat on a calm lake, watercolour",
    "a portrait of an old fisherman, film photograph",
    "a steam locomotive crossing a stone bridge in autumn",
    "a small robot watering tomato plants",
    "a desert under a sky full of stars",
    "a cat looking out of a window at night",
    "a market stall with oranges and lemons",
)


def idea(vocabulary: Vocabulary | None, other_than: object) -> str:
    """A random prompt for a model, other than the one that stands there already if there is another."""
    draw, own = random.Random(), vocabulary is not None and vocabulary.styles and vocabulary.ideas
    for _ in range(100):
        prompt = vocabulary.idea(draw) if own else draw.choice(GENERAL)
        if prompt != other_than:
            break
    return prompt
