"""Prompts in the captions' own terms, and the words that stood in none of them."""

from __future__ import annotations

import json
import random

import pytest

from lssgen.families.vocabulary import FILE, Vocabulary

WORDS = (
    "a an the small flat glossy 3d on at left next to and above background teal orange grey cat dog apple box wolf "
    "leaf cherry mouse woman shoe glasses red astronaut bow arrow"
)
NAMES = ("cat", "dog", "red apple", "woman", "astronaut", "bow and arrow", "box", "woman s shoe", "cherry", "wolf")
LITTLE = Vocabulary(
    styles=("flat", "glossy", "3d"),
    backgrounds=("teal", "orange"),
    ideas=("cat", "apple"),
    names=frozenset(NAMES),
    people=frozenset(["woman", "astronaut"]),
    words=frozenset(WORDS.split()),
    keywords=frozenset(["cats", "shiny", "kitten", "pinata"]),
    synonyms={"shiny": "glossy", "gray": "grey"},
)
CASES = {
    "flat CATS": "flat cat",  # it stands in a keyword, but cat in a label
    "flat kittens": "flat kitten",
    "3d leaves": "3d leaf",
    "3d mice": "3d mouse",
    "flat Piñatas": "flat pinata",
    "flat glasses": "flat glasses",
    "shiny gray cat": "glossy grey cat",
    "cat, 3d": "3d cat",
    "Cat (3D)": "3d Cat",
    "cat 3d": "3d cat",
    "a cat in glossy style": "a glossy cat",
    "an apple in a flat style": "a flat apple",
    "an astronaut": "a flat astronaut",
    "An astronaut on an orange background": "A flat astronaut on an orange background",
    "the cat, glossy style, on a teal background": "a glossy cat on a teal background",
    "apples in 3d on a teal background": "3d apple on a teal background",
    "small cat, flat at the left": "small flat cat at the left",
    "a cat next to a dog, 3d": "a 3d cat next to a 3d dog",
    "a cat above an apple, 3d": "a 3d cat above a 3d apple",
    # no style
    "cat": "flat cat",
    "a cat on a teal background": "a flat cat on a teal background",
    "small cat at the left": "small flat cat at the left",
    "grey cat": "flat grey cat",
    "zeppelin cat": "flat zeppelin cat",
    "A photo of a cat": "a flat cat",
    # several objects
    "cat astronaut": "a flat cat next to a flat astronaut",
    "glossy cat astronaut on a teal background": "a glossy cat next to a glossy astronaut on a teal background",
    "boxes and cherries": "a flat box next to a flat cherry",
    "3d cat with a red apple": "a 3d cat next to a 3d red apple",
    "a dog above a cat": "a flat dog above a flat cat",
    "two cats": "a flat cat next to a flat cat",
    "3 wolves on an orange background": "flat wolf, wolf and wolf on an orange background",
    "cat, a dog, and the red apple": "flat cat, dog and red apple",
    "glossy cat, dog, astronaut": "glossy cat, dog and astronaut",
}
UNCHANGED = (
    "", "a  glossy cat", "a 3d", "3d", "3d cat, flat dog", "woman's flat shoe", "flat woman astronaut",
    "glossy woman's flat shoe", "a glossy cat next to a glossy dog", "zeppelins", "class", "as", "a",
    "3d bow and arrow",
    "a 3d cat and a 3d dog", "flat cat, dog and red apple", "3d woman's shoe", "a flat cat above a flat dog",
)  # fmt: skip


@pytest.mark.parametrize(("prompt", "read"), CASES.items())
def test_a_prompt_is_put_into_the_captions_terms(prompt, read):
    assert LITTLE.normalise(prompt) == read
    assert LITTLE.normalise(read) == read


@pytest.mark.parametrize("prompt", UNCHANGED)
def test_what_is_a_caption_or_no_better_said_is_left_alone(prompt):
    assert LITTLE.normalise(prompt) == prompt


def test_unknown_words_are_named_once_as_they_were_written():
    assert LITTLE.unknown("a Zeppelin, x 1917 CAT piñata kitten zeppelin quantum-cat Zeppelin") == [
        "Zeppelin", "zeppelin", "quantum",
    ]  # fmt: skip
    assert LITTLE.unknown("ポケモン") == ["ポケモン"]
    assert LITTLE.unknown("") == LITTLE.unknown("!? …") == []


def test_ideas_are_captions_of_known_words():
    ideas = {LITTLE.idea(random.Random(seed)) for seed in range(60)}
    assert len(ideas) > 6
    assert any(idea.endswith("on an orange background") for idea in ideas)
    for idea in ideas:
        assert LITTLE.normalise(idea) == idea
        assert idea.split()[0] in LITTLE.styles


def test_a_vocabulary_comes_back_from_its_file(tmp_path):
    assert Vocabulary.read(tmp_path) is None
    LITTLE.write(tmp_path)
    assert Vocabulary.read(tmp_path) == LITTLE
    first = (tmp_path / FILE).read_text()
    Vocabulary.read(tmp_path).write(tmp_path)
    assert (tmp_path / FILE).read_text() == first


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"styles": 1}), "\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"vocabulary\.json cannot be read .* restore it"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize(
    "prompt", [" " * 3990 + "3d x", ", " * 1900 + "3d", "next to a x " * 320 + ", 3d", "cat " * 999]
)
def test_odd_prompts_take_no_time(prompt):
    """Blanks were once matched from each of them on."""
    LITTLE.normalise(prompt)
