"""Pre-train both text encoders by regression, and make their tokenizers.

    python -m lssgen.training.text_encoders --data DIR --work DIR [--minutes 30] [--resume] [--init assets/embedded]

From a caption, the pooled CLIP output predicts, through a linear head that is thrown away, a principal-component
code of the captioned picture at 32 x 32 px. In T5 the state of each cell token (lssgen.training.tokens) predicts its
field's 8 x 8 px of the picture at 64 px, and the mean of the words after half the layers predicts the code as CLIP
does; in scenes of several objects, each object's words that object's code (lssgen.training.binding). So what the
transformer gets already spells layout and colours, place by place, and it has to learn only how to draw them.
Prints the share of pixel variance explained (R2). Writes WORK/text.{safetensors,pt} and WORK/tokenizer{,_2}/.
--init takes what fits from an exported model; --t5-only leaves CLIP as it is.
"""

import math
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from lssgen.training import binding
from lssgen.training import data as D
from lssgen.training import scenes as S
from lssgen.training.common import Loop, fit_linear, load_average, parser, prepare, trained
from lssgen.training.optimiser import MuonAdam, parameter_groups
from lssgen.training.precision import autocast
from lssgen.training.tokens import BOS, CELLS, EOS, GRID, PAD, VOCABULARY, WORDS, Tokens, save_tokenizers

LEARNING_RATE, AGAIN = 3e-3, 0.6  # and the share of it for a model gone on with
WIDTH = 256
CODE = 256
HALFWAY = 3  # T5 layers after which the words alone must know the picture
THUMB, PICTURE = 32, S.THUMB  # px, what CLIP and T5 predict
COOL_EVERY, COOL_BY = 10, 16  # steps between shortenings of T5's queries and keys, captions they are judged by
SAMPLES = 8000  # pictures the principal components are computed from
SCENES = 0.5  # share of batches that show scenes
HEAD_BATCHES, RIDGE = 30, 1e-3  # what the heads of a model gone on with are fitted to
BIND, LOOKING = 1.0, slice(HALFWAY, None)  # weight of what binds words to objects; layers whose attention it sees
ADAM = ("embed", "shared")
SCALES = {"relative": 10.0}  # of the learning rate: T5's few position biases need longer steps
CHECKPOINT = "text"


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
        self.t5.set_attn_implementation("eager")  # the only one that gives its attention
        self.clip_head = nn.Linear(WIDTH, CODE)
        self.word_head = nn.Linear(WIDTH, CODE)
        self.cell_head = nn.Linear(WIDTH, 3 * (PICTURE // GRID) ** 2)
        self.order_head = nn.Linear(WIDTH, S.MOST)
        nn.init.zeros_(self.cell_head.weight)

    def forward(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pooled (B, WIDTH), states (B, L, WIDTH)) as the stock pipeline encodes: no attention mask."""
        return self.clip(clip_ids).pooler_output, self.t5(t5_ids)[0]

    def code(self, clip_ids: torch.Tensor) -> torch.Tensor:
        """(B, CODE): what CLIP says of the picture's code."""
        return self.clip_head(self.clip(clip_ids).pooler_output)

    def read(self, t5_ids: torch.Tensor) -> BaseModelOutput:
        """T5's states after every layer, and its attention."""
        return self.t5(t5_ids, output_hidden_states=True, output_attentions=True)

    def picture(self, read: BaseModelOutput) -> torch.Tensor:
        """(B, 3, PICTURE, PICTURE): what the cell tokens say of the picture."""
        fields = self.cell_head(read.last_hidden_state[:, : len(CELLS)]).float().transpose(1, 2)
        return F.fold(fields, PICTURE, kernel_size=PICTURE // GRID, stride=PICTURE // GRID)

    @staticmethod
    def halfway(read: BaseModelOutput, words: torch.Tensor) -> torch.Tensor:
        """(B, K, WIDTH): mean state, after half the layers, of the words (B, K, W) of each object."""
        return binding.mean_state(read.hidden_states[HALFWAY][:, len(CELLS) :], words)


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


@dataclass(frozen=True)
class Batch:
    """Captions as ids of both encoders, and what they show.

    shown: (B, 3, PICTURE, PICTURE) in [-1, 1].
    words: (B, K, W) bool, of T5's words: those that name each object; all of them where there is but one object.
    alone: (B, K, 3, PICTURE, PICTURE): the pictures those words should know; anything where there are no words.
    cells: (B, K, 64) bool, the cells that objects cover; None in pictures of one object.
    """

    clip_ids: torch.Tensor
    t5_ids: torch.Tensor
    shown: torch.Tensor
    words: torch.Tensor
    alone: torch.Tensor
    cells: torch.Tensor | None = None


class Batches:
    """Draws batches of one kind: scenes, or single pictures."""

    def __init__(self, pictures: list[D.Picture], stack: np.ndarray, tokens: Tokens, seed: int):
        self.pictures, self.stack, self.tokens = pictures, stack, tokens
        self.draw = S.Examples(pictures, seed, S.of_one_hue(pictures, stack))

    def __call__(self, scenes: bool, full: bool = False, count: int = 64) -> Batch:
        """`full` pads T5's ids as the pipeline does."""
        examples = [self.draw.scene() if scenes else self.draw.single() for _ in range(count)]
        captions = [self.draw.caption(e) for e in examples]
        ids = self.tokens(captions, full=full)
        shown = torch.stack([S.pixels_of(e, self.stack) for e in examples])
        several = [e.objects if len(e.objects) > 1 else () for e in examples]
        if not any(several):
            return Batch(*ids, shown, (ids[1][:, None, len(CELLS) :] != PAD), shown[:, None])
        labels = [[self.pictures[i].label for i in objects] for objects in several]
        words = binding.named(self.tokens, captions, labels, ids[1].shape[1])
        alone = torch.zeros(count, words.shape[1], *shown.shape[1:])
        for b, objects in enumerate(several):
            if objects:
                alone[b, : len(objects)] = torch.stack([S.pixels_of(S.Example((i,)), self.stack) for i in objects])
            else:
                words[b, 0], alone[b, 0] = ids[1][b, len(CELLS) :] != PAD, shown[b]
        cells = binding.covered(examples) & torch.tensor([bool(o) for o in several]).view(-1, 1, 1)
        return Batch(*ids, shown, words, alone, cells)


@torch.no_grad()
def fit_heads(model: TextEncoders, codes: Codes, batches: Iterable[Batch]) -> None:
    """The heads an exported model lacks, by ridge regression from what its encoders say already."""
    cells, fields, words, known, pooled, targets = [], [], [], [], [], []
    for batch in batches:
        read, some = model.read(batch.t5_ids), batch.words.any(-1)
        cells.append(read.last_hidden_state[:, : len(CELLS)].flatten(0, 1))
        fields.append(F.unfold(batch.shown, PICTURE // GRID, stride=PICTURE // GRID).transpose(1, 2).flatten(0, 1))
        words.append(model.halfway(read, batch.words)[some])
        known.append(codes(batch.alone[some]))
        pooled.append(model.clip(batch.clip_ids).pooler_output)
        targets.append(codes(batch.shown))
    fit_linear(model.cell_head, torch.cat(cells), torch.cat(fields), RIDGE)
    fit_linear(model.word_head, torch.cat(words), torch.cat(known), RIDGE)
    fit_linear(model.clip_head, torch.cat(pooled), torch.cat(targets), RIDGE)


def losses(model: TextEncoders, codes: Codes, batch: Batch, only_t5: bool) -> dict[str, tuple[torch.Tensor, float]]:
    """{part: (loss, R2)}; for the attention to the right object, and the order of objects, a likelihood, not R2."""
    out, some = {}, batch.words.any(-1)
    with autocast():
        read = model.read(batch.t5_ids)
        picture, words = model.picture(read), model.word_head(model.halfway(read, batch.words)[some])
        clip = None if only_t5 else model.code(batch.clip_ids)
    error = F.mse_loss(picture, batch.shown)
    out["cells"] = 3 * error, 1 - error.item() / batch.shown.var(0).mean().item()
    for name, value, of in (("words", words, batch.alone[some]), ("clip", clip, batch.shown)):
        if value is not None:
            code = codes(of)
            out[name] = F.mse_loss(value.float(), code), codes.explained(value.detach(), code)
    if batch.cells is not None:
        attention = torch.stack(read.attentions[LOOKING]).mean((0, 2)).float()
        look = binding.loss_of(attention, batch.words, batch.cells)
        out["looks"] = BIND * look, math.exp(-look.item())
        order = binding.order_loss(model.order_head(read.hidden_states[HALFWAY][:, len(CELLS) :]), batch.words)
        out["order"] = BIND * order, math.exp(-order.item())
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
    if args.place or not (args.init or args.resume):
        binding.place(model.t5)
    optimiser = MuonAdam(parameter_groups(model, adam=ADAM, scales=SCALES), LEARNING_RATE)
    rate = LEARNING_RATE * (AGAIN if args.init else 1)
    loop, seen = Loop(args, CHECKPOINT, model, optimiser, rate, decay=0.995, floor=0.01), []
    batch = Batches(pictures, stack, tokens, loop.seed)
    if args.init and not args.resume and not trained(args.work / CHECKPOINT):
        binding.cool(model.t5, batch(scenes=True).t5_ids)
        fit_heads(model, codes, (batch(k % 3 == 0) for k in range(HEAD_BATCHES)))
    for step in loop:
        scenes = loop.rng.random() < SCENES
        given = batch(scenes, full=loop.rng.random() < 0.15)
        if step % COOL_EVERY == 0:
            binding.cool(model.t5, given.t5_ids[:COOL_BY])
        found = losses(model, codes, given, args.t5_only)
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
    p.add_argument("--place", action="store_true", help="set the heads of word order again in a model gone on with")
    return p.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
