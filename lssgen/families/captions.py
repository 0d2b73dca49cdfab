"""Prompts that name one or more objects, said as the captions of the embedded model say it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+")  # as the tokenizer splits: "t-rex" is two words
ARTICLE = re.compile(r"^(?:an?|the) ", re.IGNORECASE)
SETTING = re.compile(r" (?:on|at|in|under) ", re.IGNORECASE)  # before the background or the place
BETWEEN = re.compile(r" ?, ?(?:and )?| (?:and|with|beside|next to) | (above) ", re.IGNORECASE)
COUNTS = {"two": 2, "2": 2, "three": 3, "3": 3}
MOST, LONGEST = 3, 12  # objects of a caption; words that are looked at


def fold(word: str) -> str:
    """As the embedded model's tokenizer folds: compatible forms, no accents, lower case."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(c for c in parts if not unicodedata.combining(c)).lower()


def name_of(text: str) -> str:
    """Folded words with one blank between them: how names are looked up."""
    return " ".join(fold(word) for word in WORD.findall(text))


@dataclass(frozen=True)
class Said:
    """What a prompt asks for: `objects`, left to right or (`above`) one above the other, and the words that follow."""

    objects: tuple[str, ...]
    above: bool
    setting: str


def take_apart(prompt: str, is_name: Callable[[str], bool], may_lead: Callable[[str], bool]) -> Said | None:
    """The objects of a prompt without a style; None where they are not all names of objects.

    Args:
        prompt: one blank between words, no article before the first.
        is_name: whether these words name an object.
        may_lead: whether another name may stand right behind this one: "cat astronaut", not "woman astronaut".
    """
    if len(WORD.findall(prompt)) > 2 * LONGEST:
        return None
    for end in (len(prompt), *(found.start() for found in reversed(list(SETTING.finditer(prompt))))):
        found = _objects(prompt[:end], is_name, may_lead)
        if found:
            return Said(*found, prompt[end:])
    return None


def _objects(
    text: str, is_name: Callable[[str], bool], may_lead: Callable[[str], bool]
) -> tuple[tuple[str, ...], bool] | None:
    if is_name(text):
        return (text,), False
    first, _, rest = text.partition(" ")
    if first.lower() in COUNTS and is_name(rest):
        return (rest,) * COUNTS[first.lower()], False
    pieces = BETWEEN.split(text)  # between two parts "above" or None
    parts = tuple(ARTICLE.sub("", part) for part in pieces[::2])
    if 1 < len(parts) <= MOST and all(map(is_name, parts)):
        return parts, len(parts) == 2 and bool(pieces[1])
    words = text.split(" ")
    for k in range(min(len(words), LONGEST) - 1, 0, -1):
        one, other = " ".join(words[:k]), " ".join(words[k:])
        if is_name(one) and is_name(other) and may_lead(one):
            return (one, other), False
    return None


def put_together(said: Said, style: str) -> str:
    """The caption of two or three objects in this style."""
    one, *others = said.objects
    if len(others) == 1:
        text = f"a {style} {one} {'above' if said.above else 'next to'} a {style} {others[0]}"
    else:
        text = f"{style} {one}, {others[0]} and {others[1]}"
    return text + said.setting
