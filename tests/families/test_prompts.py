"""How a prompt is read; what is cut off, against what the stock pipeline's own tokenizer call keeps."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from lssgen.families.folders import resolve, settings, vocabulary
from lssgen.families.prompts import PromptReader
from lssgen.request import MAX_PROMPT, GenerationRequest

LONG = " ".join(f"red apple number {k}" for k in range(40))


@pytest.fixture(scope="module")
def reader():
    its = settings("embedded")
    return PromptReader(resolve("embedded"), its.max_sequence_length, vocabulary("embedded"))


def test_a_short_prompt_is_read_to_its_end(reader):
    assert reader.notes("a glossy red apple next to a glossy palm tree") == ()
    assert reader.notes("") == ()


def test_the_part_ignored_begins_where_the_pipelines_tokenizer_stops(reader):
    ignored = reader.ignored(LONG)
    assert LONG.endswith(ignored)
    limit = settings("embedded").max_sequence_length
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded") / "tokenizer_2", local_files_only=True)
    encode = lambda text: tokenizer(text, truncation=True, max_length=limit).input_ids  # noqa: E731
    assert encode(LONG) == encode(LONG.removesuffix(ignored))
    assert encode(LONG) != encode(LONG.removesuffix(ignored)[:-5])


def test_the_note_quotes_the_part_ignored_and_stays_short(reader):
    note = reader.notes(LONG)[-1]
    assert reader.ignored(LONG)[:20] in note
    assert len(note) < 160


def test_a_model_without_that_tokenizer_has_no_notes(tmp_path):
    assert PromptReader(tmp_path, 32).notes(LONG) == ()


def test_the_plan_carries_the_note(tiny_engine):
    request = GenerationRequest(prompt="a red apple " * 100, height=128, width=128, start=64, steps=8)
    assert "ignored" in tiny_engine.plan(request).notes[-1]


def test_a_plural_and_a_style_behind_are_read_in_the_models_terms_and_said(reader):
    assert reader.read("CATS, 3d") == "3d cat"
    (note,) = reader.notes("CATS, 3d")
    assert note == "the prompt is read as “3d cat”"


def test_words_the_model_never_saw_are_named(reader):
    (note,) = reader.notes("glossy zeppelin in a quantum")
    assert note.startswith("the model does not know “zeppelin”, “quantum”")
    (note,) = reader.notes("flat " + " ".join(f"z{c}" for c in "bcdfghjk"))
    assert "and 2 more" in note


def test_words_that_are_cut_off_are_not_named(reader):
    *others, note = reader.notes(LONG + " zeppelin")
    assert "ignored" in note
    assert not any("zeppelin" in other for other in others)


def test_a_prompt_never_grows_beyond_what_is_taken(reader):
    longest = ("next to a x " * 400)[: MAX_PROMPT - 4] + ", 3d"
    assert reader.read(longest) == longest


def test_a_model_without_a_vocabulary_takes_every_prompt_as_it_is(tiny_engine):
    request = GenerationRequest(prompt="cats, zeppelin, 3d", height=128, width=128, start=64, steps=8)
    assert tiny_engine.filled(request).prompt == request.prompt
    assert not any("zeppelin" in note for note in tiny_engine.plan(request).notes)
