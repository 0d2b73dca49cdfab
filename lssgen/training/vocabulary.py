"""Write the words of the training captions into a model's folder, as `vocabulary.json`.

    python -m lssgen.training.vocabulary --data DIR --model assets/embedded

The page and the command line tell by it which words of a prompt the model does not know, read plurals as the singular
that was trained on, and suggest prompts. Its words are those of all labels and of the grammar that captions are drawn
in; its keywords stood in some captions in place of a label. Prompts are suggested of objects that are drawn in every
style, people and symbols left out: they have many near-duplicates.
"""

import argparse
from pathlib import Path

from lssgen.families.captions import WORD, fold, name_of
from lssgen.families.vocabulary import Vocabulary
from lssgen.training import data as D
from lssgen.training.scenes import HUES, Examples

DRAWS = 5000  # of captions, to meet every word of their grammar
PEOPLE = "people-body"
LEFT_OUT = (PEOPLE, "symbols")
STYLE = "glossy"  # where a prompt names none
SYNONYMS = {"shiny": "glossy", "2d": "flat", "gray": "grey"}


def words_of(texts: list[str]) -> frozenset[str]:
    """Folded, as they are looked up."""
    return frozenset(fold(word) for text in texts for word in WORD.findall(text))


def vocabulary(pictures: list[D.Picture]) -> Vocabulary:
    """That of captions drawn of these pictures."""
    examples = Examples(pictures, 0, hued=list(range(len(pictures))))
    drawn = [examples.caption(draw(), keywords=0.0) for _ in range(DRAWS) for draw in (examples.single, examples.scene)]
    words = words_of([p.label for p in pictures] + drawn + [*D.COLOURS, *HUES, *D.STYLES])
    styles: dict[str, set[str]] = {}
    for picture in pictures:
        if picture.group not in LEFT_OUT:
            styles.setdefault(picture.label, set()).add(picture.style)
    every = {p.style for p in pictures}
    return Vocabulary(
        styles=(STYLE, *(style for style in D.STYLES if style != STYLE)),
        backgrounds=tuple(D.COLOURS),
        ideas=tuple(sorted(label for label, its in styles.items() if its == every)),
        names=frozenset(name_of(p.label) for p in pictures),
        people=frozenset(name_of(p.label) for p in pictures if p.group == PEOPLE),
        words=words,
        keywords=words_of([k for p in pictures for k in p.keywords]) - words,
        synonyms={a: b for a, b in SYNONYMS.items() if a not in words},
    )


def main() -> None:
    """Write it."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder that holds emoji/")
    p.add_argument("--model", type=Path, required=True, help="the exported model's folder")
    args = p.parse_args()
    made = vocabulary(D.read_captions(args.data))
    made.write(args.model)
    print(f"{len(made.words)} words, {len(made.keywords)} keywords, {len(made.ideas)} ideas")


if __name__ == "__main__":
    main()
