"""Make the tokenizers and pre-train both text encoders by regression.

    python -m lssgen.training.text_encoders --data DIR --work DIR [--minutes 10] [--resume] [--init assets/embedded]

From a caption, the pooled CLIP output and the mean of the T5 states each predict, through a linear head that is
thrown away, a principal-component code of the captioned picture at 32 x 32 px. So what the transformer gets
already spells layout and colours linearly, and it has to learn only how to draw them. Prints the share of pixel
variance explained (R2). Writes WORK/text.{safetensors,pt} and WORK/tokenizer/.
"""

import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lssgen.training import data as D
from lssgen.training.common import (
    Average,
    Clock,
    MuonAdam,
    load_average,
    load_checkpoint,
    parameter_groups,
    parser,
    rate,
    save_checkpoint,
    set_rate,
)

LEARNING_RATE = 4e-3
LENGTH = 32  # tokens, for both encoders: pass max_sequence_length=32
WIDTH = 256
VOCABULARY = 4608
CODE = 256
THUMB = 32
SAMPLES = 8000  # pictures the principal components are computed from
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


def wrap_tokenizer(tokenizer: Tokenizer, start: bool) -> PreTrainedTokenizerFast:
    """For transformers; appends its own end token, and puts a start token first where asked (CLIP)."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
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
                num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=WIDTH,
                pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
            )
        )  # fmt: skip
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=vocabulary, d_model=WIDTH, d_kv=64, d_ff=2 * WIDTH, num_layers=3, num_heads=4,
                feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=PAD, eos_token_id=EOS,
                decoder_start_token_id=PAD, tie_word_embeddings=False, is_encoder_decoder=False, use_cache=False,
            )
        )  # fmt: skip
        self.clip_head = nn.Linear(WIDTH, CODE)
        self.t5_head = nn.Linear(WIDTH, CODE)

    def forward(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pooled (B, WIDTH), states (B, L, WIDTH)) as the stock pipeline encodes: no attention mask."""
        return self.clip(clip_ids).pooler_output, self.t5(t5_ids)[0]

    def codes(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each encoder says of the picture's code."""
        pooled, states = self(clip_ids, t5_ids)
        real = (t5_ids != PAD).unsqueeze(-1)
        return self.clip_head(pooled), self.t5_head((states * real).sum(1) / real.sum(1))


class Tokens:
    """Captions -> id tensors for both encoders, padded to the batch's longest or to a given length."""

    def __init__(self, folder: Path):
        self.clip = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.t5 = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer_2")

    def __call__(self, captions: list[str], length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`length` pads T5 to a fixed length as the pipeline does; None: to the longest of the batch."""
        clip = self.clip(captions, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
        padding = "max_length" if length else True
        t5 = self.t5(captions, padding=padding, truncation=True, max_length=length or LENGTH, return_tensors="pt")
        return clip, t5.input_ids


def save_tokenizers(pictures: list[D.Picture], folder: Path) -> None:
    """Trains and stores both, as FluxPipeline names them."""
    tokenizer = train_tokenizer(corpus(pictures))
    wrap_tokenizer(tokenizer, start=True).save_pretrained(folder / "tokenizer")
    wrap_tokenizer(tokenizer, start=False).save_pretrained(folder / "tokenizer_2")


class Codes:
    """Principal components of the pictures at THUMB px, over white, colours and two-object scenes."""

    def __init__(self, pictures: list[D.Picture], stack: np.ndarray, seed: int = 0):
        small = [Image.fromarray(np.array(a)).resize((THUMB, THUMB), Image.Resampling.BOX) for a in stack]
        self.stack = np.stack([np.asarray(a) for a in small])
        draw = D.Examples(pictures, seed)
        sample = torch.stack([self.pixels(draw.pair() if k % 4 == 0 else draw.single()) for k in range(SAMPLES)])
        self.mean = sample.mean(0)
        self.total = (sample - self.mean).var(0).sum().item()
        _, s, v = torch.svd_lowrank(sample - self.mean, q=CODE, niter=3)
        self.scale = (
            (s / len(sample) ** 0.5).sqrt().clamp(min=1e-3)
        )  # square root of the deviation: half-way to whitening
        self.basis = v / self.scale

    def pixels(self, e: D.Example) -> torch.Tensor:
        """(3 * THUMB * THUMB,) in [-1, 1]."""
        return D.composite(D.rgba_of(e, self.stack), D.background_of(e)).flatten()

    def __call__(self, examples: list[D.Example]) -> torch.Tensor:
        """(B, CODE)."""
        return (torch.stack([self.pixels(e) for e in examples]) - self.mean) @ self.basis


def load(work: Path, init: Path | None = None) -> TextEncoders:
    """The trained encoders: from the checkpoint, or the weights of an exported model."""
    if init is None:
        return load_average(work / CHECKPOINT, TextEncoders())
    model = TextEncoders()
    model.clip = CLIPTextModel.from_pretrained(init / "text_encoder", dtype=torch.float32)
    model.t5 = T5EncoderModel.from_pretrained(init / "text_encoder_2", dtype=torch.float32)
    return model


def train(args) -> None:
    """The loop."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pictures = D.read_captions(args.data)
    stack = D.rasters(args.data, args.work, pictures, 256, "rgba_256")
    if not (args.work / "tokenizer").is_dir():
        save_tokenizers(pictures, args.work)
    tokens, codes = Tokens(args.work), Codes(pictures, stack)
    model = load(args.work, args.init) if args.init else TextEncoders()
    model.train()
    optimiser = MuonAdam(parameter_groups(model, adam=ADAM), LEARNING_RATE)
    average, path, step, clock = Average(model, 0.995), args.work / CHECKPOINT, 0, Clock(args.minutes)
    if args.resume:
        numbers = load_checkpoint(path, model, average, optimiser)
        step, clock = numbers["step"], Clock(args.minutes, numbers["spent"])
    draw, rng, seen, tick = (
        D.Examples(pictures, args.seed + step),
        random.Random(args.seed + step),
        [],
        time.monotonic(),
    )
    while clock.share < 1 and (not args.steps or step < args.steps):
        set_rate(optimiser, LEARNING_RATE * rate(clock.share, floor=0.01))
        pairs = rng.random() < 0.25
        examples = [draw.pair() if pairs else draw.single() for _ in range(192 if pairs else 320)]
        ids = tokens([draw.caption(e) for e in examples], LENGTH if rng.random() < 0.15 else None)
        target = codes(examples)
        with torch.autocast("cpu", torch.bfloat16):
            clip, t5 = model.codes(*ids)
        loss = F.mse_loss(clip.float(), target) + F.mse_loss(t5.float(), target)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        step += 1
        unexplained = [((c.detach().float() - target) * codes.scale).square().sum(1).mean().item() for c in (clip, t5)]
        seen.append((pairs, loss.item(), *[1 - u / codes.total for u in unexplained]))
        if step % 25 == 0:
            one, two = (np.mean([s[1:] for s in seen[-100:] if s[0] == k] or [[0] * 3], 0) for k in (False, True))
            speed, left = (time.monotonic() - tick) / 25, (clock.seconds - clock.spent) / 60
            r2 = f"R2 clip {one[1]:.3f} t5 {one[2]:.3f}, scenes {two[1]:.3f} {two[2]:.3f}"
            print(f"step {step} loss {one[0]:.4f} {r2} {speed:.2f} s/step {left:.1f} min left", flush=True)
            tick = time.monotonic()
        if step % 200 == 0:
            save_checkpoint(path, model, average, optimiser, {"step": step, "spent": clock.spent})
    save_checkpoint(path, model, average, optimiser, {"step": step, "spent": clock.spent})


if __name__ == "__main__":
    train(parser(__doc__, 10).parse_args())
