"""The words a model was trained on: which of a prompt's it knows, how it reads the others, and ideas for prompts.

A model's folder may have a `vocabulary.json`; the embedded model's is written by `lssgen.training.vocabulary`. Prompts
for models without one are passed on as they are.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lssgen.families.captions import WORD, fold, name_of, put_together, take_apart

FILE = "vocabulary.json"
BEFORE = re.compile(r"(?P<article>(?:an?|the)(?: |$))?(?P<small>small )?", re.IGNORECASE)  # the style, in captions
AN = re.compile(r"^(a)n ", re.IGNORECASE)
PREAMBLE = re.compile(r"^(?:an? |the )?(?:photo(?:graph)?|picture|image|drawing|icon|emoji) of ", re.IGNORECASE)
OBJECTS = re.compile(r"\b(next to|above|and) an? ", re.IGNORECASE)  # before an object that is not the first
PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))
IRREGULAR = {"mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth", "oxen": "ox", "men": "man",
             "women": "woman", "children": "child", "people": "person", "wolves": "wolf"}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """What captions were made of.

    Args:
        styles: they stand before the object in most captions: "a glossy red apple"; the first where none is named.
        backgrounds: names of colours.
        ideas: objects that prompts are suggested of.
        names: of all objects, folded (see `name_of`).
        people: those of `names` that another name may follow as their own: "woman astronaut".
        words: of names and of grammar, folded (see `fold`).
        keywords: those that only stood in for a name, now and then.
        synonyms: words to be read as others that are trained on more.
    """

    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    ideas: tuple[str, ...]
    names: frozenset[str]
    people: frozenset[str]
    words: frozenset[str]
    keywords: frozenset[str]
    synonyms: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Vocabulary | None:
        """That of a model's folder; None if it has none. Raises ValueError for a damaged one."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            lists = {name: tuple(map(str, content[name])) for name in ("styles", "backgrounds", "ideas")}
            sets = {name: frozenset(map(str, content[name])) for name in ("names", "people", "words", "keywords")}
            return cls(**lists, **sets, synonyms=dict(content["synonyms"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); restore it") from error

    def write(self, folder: Path) -> None:
        """As JSON, one field a line."""
        fields = {name: sorted(v) if isinstance(v, frozenset) else v for name, v in vars(self).items()}
        lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
        (folder / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def unknown(self, prompt: str) -> list[str]:
        """The words, as they were written, that stood in no caption; single letters and numbers are passed over."""
        words = WORD.findall(_composed(prompt))
        return list(dict.fromkeys(w for w in words if len(w) > 1 and not w.isnumeric() and not self._knows(w)))

    def _knows(self, word: str) -> bool:
        return fold(word) in self.words or fold(word) in self.keywords

    def _styles_of(self, text: str) -> list[str]:
        return [word for word in WORD.findall(text.lower()) if word in self.styles]

    def normalise(self, prompt: str) -> str:
        """The prompt in the captions' own terms; unchanged where it is in them already.

        Plurals and synonyms the model knows little or nothing of become the words it knows, and a style named behind
        the object ("cat, 3d", "a cat in glossy style") goes before it, as in most captions. Where no style is named,
        the first is. Several objects ("cat astronaut", "two cats", "cat, dog and apple") stand next to each other.
        That it is a picture ("a photo of a cat") goes without saying.
        """
        text = WORD.sub(lambda found: self._known_form(found[0]), _composed(prompt))
        text = self._as_caption(self._style_first(PREAMBLE.sub("", text)))
        return text if text != _composed(prompt) else prompt

    def _known_form(self, word: str) -> str:
        folded = fold(word)
        if folded in self.words:
            return word
        if folded in self.synonyms:
            return self.synonyms[folded]
        singulars = list(_singulars(folded))
        known = (self.words,) if folded in self.keywords else (self.words, self.keywords)
        return next((s for among in known for s in singulars if s in among), word)

    def _style_first(self, text: str) -> str:
        """Only where one style is named, once, behind something: two may belong to two objects, or to a name."""
        styles = self._styles_of(text)
        if len(styles) != 1:
            return text
        style, plain = styles[0], " ".join(text.split())
        mention = rf"(?: ?, ?| ?\(| )(?:in )?(?:an? )?{style}(?: style)?\)?(?= ?(?:,|\.|$|on\b|at\b))"
        rest = re.sub(mention, "", plain, count=1, flags=re.IGNORECASE)
        rest = re.sub(r" ?,(?= (?:on|at)\b)", "", rest)
        before = BEFORE.match(rest)
        if rest == plain or not WORD.search(rest, before.end()):
            return text
        others = OBJECTS.sub(lambda found: f"{found[1]} a {style} ", rest[before.end() :])
        return f"{'a ' if before['article'] else ''}{before['small'] or ''}{style} {others}"

    def _as_caption(self, text: str) -> str:
        """Names a style, and puts several objects into the form of captions; not where two styles are named."""
        styles = self._styles_of(text)
        if len(styles) > 1 or not any(len(w) > 1 and self._knows(w) for w in WORD.findall(text)):
            return text
        plain = " ".join(text.split())
        before = BEFORE.match(plain)
        rest, style = plain[before.end() :], self.styles[0]
        if styles:
            style, _, rest = rest.partition(" ")
        if not rest or (styles and style.lower() != styles[0]):
            return text
        said = take_apart(rest, lambda name: name_of(name) in self.names, lambda name: name_of(name) not in self.people)
        if said and len(said.objects) > 1 and not before["small"]:
            caption = put_together(said, style)
            return text if caption == f"{style} {rest}" else caption
        if styles:
            return text
        article = AN.sub(r"\1 ", before["article"] or "")  # of the style, no more of "apple"
        return f"{article}{before['small'] or ''}{style} {rest}"

    def idea(self, draw: random.Random) -> str:
        """A prompt in the captions' grammar, on white or on a colour."""
        prompt = f"{draw.choice(self.styles)} {draw.choice(self.ideas)}"
        if self.backgrounds and draw.random() < 0.35:
            colour = draw.choice(self.backgrounds)
            prompt += f" on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
        return prompt


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _singulars(word: str) -> Iterator[str]:
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for ending, instead in PLURALS:
        if word.endswith(ending) and len(word) > len(ending) + 2 and not word.endswith("ss"):
            yield word.removesuffix(ending) + instead
