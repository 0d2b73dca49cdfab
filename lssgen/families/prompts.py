"""How a model reads a prompt, from its tokenizer and its vocabulary alone: in other words, in part, or not at all."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from lssgen.families.vocabulary import Vocabulary
from lssgen.request import MAX_PROMPT

SHOWN = 60  # characters of an ignored part that a note quotes
NAMED = 6  # unknown words that a note names


class PromptReader:
    """The tokenizer that decides how far a FLUX model reads: T5's, cut at max_sequence_length.

    Args:
        folder: the model's folder; without a tokenizer_2/tokenizer.json in it nothing is known to be ignored.
        max_sequence_length: tokens the runs pass on, special ones among them.
        vocabulary: the words of the model's captions; without them every prompt is taken as it is.
    """

    def __init__(self, folder: Path, max_sequence_length: int, vocabulary: Vocabulary | None = None) -> None:
        self._vocabulary = vocabulary
        path = folder / "tokenizer_2" / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception:  # tokenizers raises bare Exception; a broken folder is reported when the model is loaded
            self._tokenizer = None
            return
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._words = max_sequence_length - self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def read(self, prompt: str) -> str:
        """The prompt as it is passed on to the model, in both arms alike."""
        read = self._vocabulary.normalise(prompt) if self._vocabulary else prompt
        return read if len(read) <= MAX_PROMPT else prompt

    def ignored(self, prompt: str) -> str:
        """The end of a prompt passed on that is cut off; "" if all is read."""
        if self._tokenizer is None:
            return ""
        ends = [end for _, end in self._tokenizer.encode(prompt, add_special_tokens=False).offsets]
        return prompt[ends[self._words - 1] :].strip() if len(ends) > self._words > 0 else ""

    def notes(self, prompt: str) -> tuple[str, ...]:
        """What the user should know: how the prompt is read, words the model never saw, and what is cut off."""
        read, notes = self.read(prompt), []
        ignored = self.ignored(read)
        if read != prompt:
            notes.append(f"the prompt is read as “{_short(read)}”")
        unknown = self._vocabulary.unknown(read.removesuffix(ignored)) if self._vocabulary else []
        if unknown:
            named = ", ".join(f"“{word[:SHOWN]}”" for word in unknown[:NAMED])
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            notes.append(f"the model does not know {named}{more}; it draws what it makes of the rest")
        if ignored:
            notes.append(f"the prompt is longer than this model reads; ignored from here on: “{_short(ignored)}”")
        return tuple(notes)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …"
