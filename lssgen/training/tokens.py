"""The tokenizers of both text encoders: word pieces, T5's with the cell tokens before the words.

T5 reads 64 cell tokens first, one for each field of an 8 x 8 grid over the picture, row by row, then the caption.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lssgen.training import data as D

WORDS = 32  # tokens of a caption, its end token among them
GRID = 8
CELLS = [f"<cell_{k}>" for k in range(GRID**2)]  # row by row
LENGTH = len(CELLS) + WORDS  # T5's: pass max_sequence_length=96
VOCABULARY = 4608
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
PAD, UNK, BOS, EOS = range(4)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Word pieces, lower case, accents off; unknown words fall into pieces down to characters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789")
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer, cells: bool) -> PreTrainedTokenizerFast:
    """For transformers; CLIP's has a start token first, T5's the cell tokens; both append the end token."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    first = CELLS if cells else ["<s>"]
    tokenizer.add_special_tokens(first)
    special = [(token, tokenizer.token_to_id(token)) for token in [*first, "</s>"]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{' '.join(first)} $A </s>", special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH if cells else WORDS,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def corpus(pictures: list[D.Picture]) -> list[str]:
    """Every caption form and keyword, for the tokenizer; labels count twice."""
    texts = [f"a {p.style} {p.label} {p.label} {' '.join(p.keywords)}" for p in pictures]
    return texts + [f"a glossy house next to a 3d palm tree on a {c} background" for c in D.COLOURS] * 20


class Tokens:
    """Captions -> id tensors for both encoders, padded to the batch's longest or as the pipeline does."""

    def __init__(self, folder: Path):
        self.clip = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.t5 = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer_2")

    def __call__(self, captions: list[str], full: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """`full` pads T5's to LENGTH, as the pipeline does."""
        clip = self.clip(captions, padding=True, truncation=True, max_length=WORDS, return_tensors="pt").input_ids
        padding = "max_length" if full else True
        t5 = self.t5(captions, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt")
        return clip, t5.input_ids


def tokens_of(work: Path, init: Path | None) -> Tokens:
    """WORK's tokenizers where it has them, else those of an exported model."""
    return Tokens(work if (work / "tokenizer_2").is_dir() or init is None else init)


def save_tokenizers(pictures: list[D.Picture], folder: Path, init: Path | None = None) -> None:
    """Stores both as FluxPipeline names them: trained, or those of an exported model, whose words its weights know."""
    known = init and init / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(known)) if known else train_tokenizer(corpus(pictures))
    wrap_tokenizer(tokenizer, cells=False).save_pretrained(folder / "tokenizer")
    wrap_tokenizer(tokenizer, cells=True).save_pretrained(folder / "tokenizer_2")
