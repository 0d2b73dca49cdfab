"""What of a prompt a model does not read, from its tokenizer alone."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

SHOWN = 60  # characters of an ignored part that a note quotes


class PromptReader:
    """The tokenizer that decides how far a FLUX model reads: T5's, cut at max_sequence_length.

    Args:
        folder: the model's folder; without a tokenizer_2/tokenizer.json in it nothing is known to be ignored.
        max_sequence_length: tokens the runs pass on, special ones among them.
    """

    def __init__(self, folder: Path, max_sequence_length: int) -> None:
        path = folder / "tokenizer_2" / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception:  # tokenizers raises bare Exception; a broken folder is reported when the model is loaded
            self._tokenizer = None
            return
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._words = max_sequence_length - self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def ignored(self, prompt: str) -> str:
        """The end of the prompt that is cut off; "" if all is read."""
        if self._tokenizer is None:
            return ""
        ends = [end for _, end in self._tokenizer.encode(prompt, add_special_tokens=False).offsets]
        return prompt[ends[self._words - 1] :].strip() if len(ends) > self._words > 0 else ""

    def notes(self, prompt: str) -> tuple[str, ...]:
        """One sentence if the prompt is cut, else nothing."""
        ignored = self.ignored(prompt)
        if not ignored:
            return ()
        quoted = ignored if len(ignored) <= SHOWN else ignored[:SHOWN].rstrip() + " …"
        return (f"the prompt is longer than this model reads; ignored from here on: “{quoted}”",)
