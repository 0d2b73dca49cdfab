"""Make the tokenizers and pre-train both text encoders by regression.

    python -m lssgen.training.text_encoders --data DIR --work DIR [--minutes 30] [--resume] [--init assets/embedded]

From a caption, the pooled CLIP output predicts, through a linear head that is thrown away, a principal-component
code of the captioned picture at 32 x 32 px. The T5 tokenizer puts 64 cell tokens before the words, one for each field
of an 8 x 8 grid over the picture; the state of each predicts its field's 8 x 8 px of the picture at 64 px, and the
mean of the words after half the layers predicts the code as CLIP does. So what the transformer gets already spells
layout and colours, place by place, and it has to learn only how to draw them.
Prints the share of pixel variance explained (R2). Writes WORK/text.{safetensors,pt} and WORK/tokenizer{,_2}/.
--init takes what fits from an exported model; --t5-only leaves CLIP as it is.
"""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lssgen.training import data as D
from lssgen.training import scenes as S
from lssgen.training.common import (
    Loop,
    MuonAdam,
    autocast,
    fit_linear,
    load_average,
    parameter_groups,
    parser,
    prepare,
    trained,
)

LEARNING_RATE = 3e-3
WORDS = 32  # tokens of a caption, its end token among them
GRID = 8
CELLS = [f"<cell_{k}>" for k in range(GRID**2)]  # row by row
LENGTH = len(CELLS) + WORDS  # T5's: pass max_sequence_length=96
WIDTH = 256
VOCABULARY = 4608
CODE = 256
HALFWAY = 3  # T5 layers after which the words alone must know the picture
THUMB, PICTURE = 32, S.THUMB  # px, what CLIP and T5 predict
SAMPLES = 8000  # pictures the principal components are computed from
SCENES = 0.35  # share of batches that show scenes
HEAD_BATCHES, RIDGE = 30, 1e-3  # what the heads of a model gone on with are fitted to
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
PAD, UNK, BOS, EOS = range(4)
ADAM = ("embed", "shared", "relative")
CHECKPOINT = "text"


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


class TextEncoders(nn.Module):
    """CLIP and T5 encoders with the regression heads of the pre-training."""

    def __init__(self, vocabulary: int = VOCABULARY):
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3,
                num_attention_heads=4, max_position_embeddings=WORDS, projection_dim=WIDTH,
                pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
            )
        )  # fmt: skip
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=vocabulary + len(CELLS), d_model=WIDTH, d_kv=64, d_ff=2 * WIDTH, num_layers=6, num_heads=4,
                feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=PAD, eos_token_id=EOS,
                decoder_start_token_id=PAD, tie_word_embeddings=False, is_encoder_decoder=False, use_cache=False,
            )
        )  # fmt: skip
        self.clip_head = nn.Linear(WIDTH, CODE)
        self.word_head = nn.Linear(WIDTH, CODE)
        self.cell_head = nn.Linear(WIDTH, 3 * (PICTURE // GRID) ** 2)
        nn.init.zeros_(self.cell_head.weight)

    def forward(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pooled (B, WIDTH), states (B, L, WIDTH)) as the stock pipeline encodes: no attention mask."""
        return self.clip(clip_ids).pooler_output, self.t5(t5_ids)[0]

    def code(self, clip_ids: torch.Tensor) -> torch.Tensor:
        """(B, CODE): what CLIP says of the picture's code."""
        return self.clip_head(self.clip(clip_ids).pooler_output)

    def picture(self, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, PICTURE, PICTURE): what the cell tokens say of the picture; (B, CODE): what its words say halfway."""
        out = self.t5(t5_ids, output_hidden_states=True)
        fields = self.cell_head(out.last_hidden_state[:, : len(CELLS)]).float().transpose(1, 2)
        picture = F.fold(fields, PICTURE, kernel_size=PICTURE // GRID, stride=PICTURE // GRID)
        return picture, self.word_head(self.halfway(out.hidden_states[HALFWAY], t5_ids))

    @staticmethod
    def halfway(states: torch.Tensor, t5_ids: torch.Tensor) -> torch.Tensor:
        """(B, WIDTH): mean state of the words."""
        words = (t5_ids[:, len(CELLS) :] != PAD).unsqueeze(-1)
        return (states[:, len(CELLS) :] * words).sum(1) / words.sum(1)


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


class Codes:
    """Principal components of the pictures at THUMB px, over white, colours and scenes."""

    def __init__(self, pictures: list[D.Picture], stack: np.ndarray, seed: int = 0):
        draw = S.Examples(pictures, seed)
        drawn = (draw.scene() if k % 4 == 0 else draw.single() for k in range(SAMPLES))
        sample = torch.cat([self.small(S.pixels_of(e, stack)[None]) for e in drawn])
        self.mean = sample.mean(0)
        self.total = (sample - self.mean).var(0).sum().item()
        _, s, v = torch.svd_lowrank(sample - self.mean, q=CODE, niter=3)
        # square root of the deviation: half-way to whitening
        self.scale = (s / len(sample) ** 0.5).sqrt().clamp(min=1e-3)
        self.basis = v / self.scale

    @staticmethod
    def small(shown: torch.Tensor) -> torch.Tensor:
        """(B, 3 * THUMB * THUMB) of pictures (B, 3, h, w)."""
        return F.adaptive_avg_pool2d(shown, THUMB).flatten(1)

    def __call__(self, shown: torch.Tensor) -> torch.Tensor:
        """(B, CODE) of pictures (B, 3, h, w) in [-1, 1]."""
        return (self.small(shown) - self.mean) @ self.basis

    def explained(self, code: torch.Tensor, target: torch.Tensor) -> float:
        """R2 of predicted codes, as a share of the pixels' variance."""
        return 1 - ((code.float() - target) * self.scale).square().sum(1).mean().item() / self.total


def adopt(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copies what has the same name and shape; of embeddings the rows that both have."""
    own = model.state_dict()
    for name in own.keys() & weights.keys():
        a, b = own[name], weights[name].float()
        if a.shape == b.shape:
            a.copy_(b)
        elif a.shape[1:] == b.shape[1:]:
            n = min(len(a), len(b))
            a[:n].copy_(b[:n])


def load(work: Path, init: Path | None = None) -> TextEncoders:
    """The trained encoders: from the checkpoint where there is one, else what fits of an exported model."""
    model = TextEncoders()
    if init is None or trained(work / CHECKPOINT):
        return load_average(work / CHECKPOINT, model)
    adopt(model.clip, CLIPTextModel.from_pretrained(init / "text_encoder", dtype=torch.float32).state_dict())
    adopt(model.t5, T5EncoderModel.from_pretrained(init / "text_encoder_2", dtype=torch.float32).state_dict())
    return model


@torch.no_grad()
def fit_heads(model: TextEncoders, codes: Codes, batches: Iterable[tuple[tuple, torch.Tensor]]) -> None:
    """The heads an exported model lacks, by ridge regression from what its encoders say already."""
    cells, fields, words, pooled, targets = [], [], [], [], []
    for (clip_ids, t5_ids), shown in batches:
        out = model.t5(t5_ids, output_hidden_states=True)
        cells.append(out.last_hidden_state[:, : len(CELLS)].flatten(0, 1))
        fields.append(F.unfold(shown, PICTURE // GRID, stride=PICTURE // GRID).transpose(1, 2).flatten(0, 1))
        words.append(model.halfway(out.hidden_states[HALFWAY], t5_ids))
        pooled.append(model.clip(clip_ids).pooler_output)
        targets.append(codes(shown))
    fit_linear(model.cell_head, torch.cat(cells), torch.cat(fields), RIDGE)
    fit_linear(model.word_head, torch.cat(words), torch.cat(targets), RIDGE)
    fit_linear(model.clip_head, torch.cat(pooled), torch.cat(targets), RIDGE)


def losses(model: TextEncoders, codes: Codes, ids: tuple, shown: torch.Tensor, only_t5: bool) -> dict:
    """{encoder: (loss, R2)} against the captioned pictures (B, 3, PICTURE, PICTURE) in [-1, 1]."""
    code, out = codes(shown), {}
    with autocast():
        picture, words = model.picture(ids[1])
        clip = None if only_t5 else model.code(ids[0])
    error = F.mse_loss(picture, shown)
    out["cells"] = 3 * error, 1 - error.item() / shown.var(0).mean().item()
    for name, value in {"words": words, "clip": clip}.items():
        if value is not None:
            out[name] = F.mse_loss(value.float(), code), codes.explained(value.detach(), code)
    return out


def train(args) -> None:
    """The loop."""
    prepare(args)
    pictures = D.read_captions(args.data)
    stack = D.rasters(args.data, args.work, pictures, PICTURE, f"rgba_{PICTURE}")
    if not (args.work / "tokenizer").is_dir():
        save_tokenizers(pictures, args.work, args.init)
    tokens, codes = Tokens(args.work), Codes(pictures, stack)
    model = load(args.work, args.init) if args.init else TextEncoders()
    model.train()
    for part in (model.clip, model.clip_head):
        part.requires_grad_(not args.t5_only)
    optimiser = MuonAdam(parameter_groups(model, adam=ADAM), LEARNING_RATE)
    loop, seen = Loop(args, CHECKPOINT, model, optimiser, LEARNING_RATE, decay=0.995, floor=0.01), []
    draw = S.Examples(pictures, loop.seed, S.of_one_hue(pictures, stack))

    def batch(scenes: bool, full: bool) -> tuple[tuple, torch.Tensor]:
        examples = [draw.scene() if scenes else draw.single() for _ in range(64)]
        ids = tokens([draw.caption(e) for e in examples], full=full)
        return ids, torch.stack([S.pixels_of(e, stack) for e in examples])

    if args.init and not args.resume and not trained(args.work / CHECKPOINT):
        fit_heads(model, codes, (batch(k % 3 == 0, full=False) for k in range(HEAD_BATCHES)))
    for _ in loop:
        scenes = loop.rng.random() < SCENES
        ids, shown = batch(scenes, full=loop.rng.random() < 0.15)
        found = losses(model, codes, ids, shown, args.t5_only)
        loop.update(sum(loss for loss, _ in found.values()))
        seen.append((scenes, {name: r2 for name, (_, r2) in found.items()}))
        loop.report(lambda: progress(seen[-100:]))


def progress(seen: list[tuple[bool, dict[str, float]]]) -> str:
    """Mean R2 of singles and scenes."""
    kinds = {"R2": False, "scenes": True}
    mean = {k: [r for scenes, r in seen if scenes == v] for k, v in kinds.items()}
    return " ".join(
        f"{k} {name} {np.mean([r[name] for r in rows]):.3f}" for k, rows in mean.items() if rows for name in rows[0]
    )


def arguments(argv: list[str] | None = None) -> Namespace:
    """The command line."""
    p = parser(__doc__, 30)
    p.add_argument("--t5-only", action="store_true", help="leave CLIP as it is")
    return p.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
