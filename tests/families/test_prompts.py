"""What of a prompt is not read, against what the stock pipeline's own tokenizer call keeps."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from lssgen.families.folders import resolve, settings
from lssgen.families.prompts import PromptReader
from lssgen.request import GenerationRequest

LONG = " ".join(f"red apple number {k}" for k in range(40))


@pytest.fixture(scope="module")
def reader():
    return PromptReader(resolve("embedded"), settings("embedded").max_sequence_length)


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
    (note,) = reader.notes(LONG)
    assert reader.ignored(LONG)[:20] in note
    assert len(note) < 160


def test_a_model_without_that_tokenizer_has_no_notes(tmp_path):
    assert PromptReader(tmp_path, 32).notes(LONG) == ()


def test_the_plan_carries_the_note(tiny_engine):
    request = GenerationRequest(prompt="a red apple " * 100, height=128, width=128, start=64, steps=8)
    assert "ignored" in tiny_engine.plan(request).notes[-1]
