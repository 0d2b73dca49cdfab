"""Train the transformer (FluxTransformer2DModel) on the pre-trained text encoders, which stay as they are.

    python -m lssgen.training.transformer --data DIR --work DIR [--minutes 80] [--resume] [--init assets/embedded]

Flow matching: x = (1 - sigma) x0 + sigma noise, target noise - x0, sigma uniform and then shifted as the sampler
shifts it for the picture's token count. Every step has one kind of batch (the table KINDS): 256 px (64 tokens), 512
(256) or 1024 (1,024). There are fewer true 1024 px latents than pictures: the noisy part of the path is trained at
1024 px with 512 px latents doubled by the upsampler, in the first part of the time on a random quarter of the tokens
with their true positions, then on whole pictures; the clean part with true latents, on windows of neighbouring tokens.

Later on, the target of captioned pictures is the velocity plus a guidance (GUIDANCE) times what the caption changes,
v(x, caption) - v(x, background), without gradient (model guidance, arXiv 2502.12154), above sigma GUIDED_ABOVE (limited
interval, arXiv 2404.07724). Where that is learned, one call gives what classifier-free guidance of scale
1 / (1 - guidance) gives in two. What is taken away knows the background (nothing named: white), so that guidance
strengthens the objects alone: taken from no caption at all, it drove the colour of a background far beyond any
that the autoencoder knows.
A model gone on with (--init) starts half-way through the table SCHEDULE, guided, at a lower learning rate.
Writes WORK/transformer.{safetensors,pt}.
"""

import math
import random
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from lssgen.training import data as D
from lssgen.training import latents, placement, text_encoders
from lssgen.training import scenes as S
from lssgen.training.common import Loop, parser, prepare
from lssgen.training.optimiser import MuonAdam, parameter_groups
from lssgen.training.precision import autocast
from lssgen.training.tokens import Tokens, tokens_of

LEARNING_RATE, AGAIN = 3e-3, 0.6  # and the share of it for a model gone on with
SHARES = (0.5, 0.16, 0.34)  # pictures on white, on other backgrounds, scenes
DROP = 0.1  # captions that name no more than the background
GUIDANCE = {256: 0.55, 512: 0.55, 1024: 0.45}  # by size
GUIDED_FROM, GUIDED_ABOVE = 0.5, 0.5  # share of the time; sigma
# half the pictures above sigma 0.8 (layout) in the first 75 % of the time
NOISY, NOISY_FROM, NOISY_UNTIL = 0.5, 0.8, 0.75
ADAM = ("x_embedder", "time_text_embed", "norm_out")
CHECKPOINT = "transformer"


@dataclass(frozen=True)
class Kind:
    """One kind of batch: which latents, at how many pixels, how many tokens of how many pictures, which sigmas."""

    store: str
    size: int
    tokens: int
    pictures: int
    between: tuple[float, float] = (0.0, 1.0)
    window: bool = False  # the tokens are a square of neighbours, else blocks from anywhere


KINDS = {
    "256": Kind("256", 256, 64, 32),
    "512": Kind("512", 512, 256, 16),
    "1024 part": Kind("1024u", 1024, 256, 16, (0.3, 1.0)),
    "1024 whole": Kind("1024u", 1024, 1024, 4, (0.3, 1.0)),
    "1024 fine": Kind("1024", 1024, 256, 16, (0.0, 0.5), window=True),
}
# until which share of the time -> share of the steps
SCHEDULE = (
    (0.50, {"512": 0.45, "1024 part": 0.37, "1024 fine": 0.10, "256": 0.08}),
    (0.80, {"512": 0.28, "1024 part": 0.26, "1024 whole": 0.32, "1024 fine": 0.10, "256": 0.04}),
    (1.01, {"512": 0.25, "1024 whole": 0.60, "1024 fine": 0.12, "256": 0.03}),
)


def build() -> FluxTransformer2DModel:
    """About 11 M parameters; gates and output start at zero, so that every block starts as the identity."""
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=6, attention_head_dim=64,
        num_attention_heads=4, joint_attention_dim=text_encoders.WIDTH, pooled_projection_dim=text_encoders.WIDTH,
        guidance_embeds=False, axes_dims_rope=(8, 28, 28),
    )  # fmt: skip
    for name, p in model.named_parameters():
        if (".norm" in name and ".linear" in name) or name.startswith(("norm_out.linear", "proj_out")):
            nn.init.zeros_(p)
    return model


class Model(nn.Module):
    """Transformer over frozen text encoders."""

    def __init__(self, transformer: FluxTransformer2DModel, text: text_encoders.TextEncoders):
        super().__init__()
        self.transformer, self.text = transformer, text
        text.requires_grad_(False)

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor, words: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Velocity of tokens x (B, n, 64) at positions ids (n, 3)."""
        with torch.no_grad():
            pooled, states = self.text(*words)
        return self.transformer(
            hidden_states=x, timestep=sigma, pooled_projections=pooled, encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3), img_ids=ids, return_dict=False,
        )[0]  # fmt: skip


def pack(z: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, h w / 4, 4 C), as FluxPipeline packs."""
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def positions(side: int) -> torch.Tensor:
    """(side^2, 3): 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.zeros(side, side), rows, columns], -1).reshape(-1, 3).float()


def keep(side: int, count: int, rng: random.Random, window: bool = False) -> torch.Tensor:
    """Indices of `count` tokens: random blocks of 1, 2 x 2 or 4 x 4, or one square of neighbours."""
    grid = torch.arange(side * side).view(side, side)
    if count >= side * side:
        return grid.flatten()
    if window:
        width = math.isqrt(count)
        row, column = rng.randint(0, side - width), rng.randint(0, side - width)
        return grid[row : row + width, column : column + width].flatten()
    block = rng.choice([1, 2, 4])
    n = side // block
    chosen = torch.tensor(rng.sample(range(n * n), count // block**2))
    return grid.view(n, block, n, block).permute(0, 2, 1, 3).reshape(n * n, -1)[chosen].flatten()


def shifted(u: torch.Tensor, tokens: int) -> torch.Tensor:
    """The scheduler's dynamic shift: sigma = e^mu / (e^mu + 1 / u - 1), mu linear from (64, .5) to (1024, 1.15)."""
    mu = 0.5 + (1.15 - 0.5) * (tokens - 64) / (1024 - 64)
    return math.exp(mu) / (math.exp(mu) + 1 / u - 1)


class Batches:
    """Clean latents and their captions at a wanted size."""

    def __init__(self, data: Path, work: Path, seed: int):
        self.pictures = D.read_captions(data)
        self.draw, self.rng = S.Examples(self.pictures, seed), random.Random(seed)
        self.store = {str(size): latents.load(work, size) for size in (256, 512, 1024)}
        self.store["1024u"] = (np.load(work / "latents_1024u.npy", mmap_mode="r"), self.store["512"][1])
        self.weights = {key: self._weights(examples) for key, (_, examples) in self.store.items()}

    def _weights(self, examples: list[S.Example]) -> list[float]:
        """Cumulative: SHARES for pictures on white, on other backgrounds, scenes; D.GROUP_WEIGHTS."""
        kinds = [2 if len(e.objects) > 1 or e.hue or e.place else 1 if e.background else 0 for e in examples]
        group = [
            D.GROUP_WEIGHTS.get(self.pictures[e.objects[0]].group, 1.0) if not k else 1.0
            for e, k in zip(examples, kinds, strict=True)
        ]
        total = [sum(g for g, k in zip(group, kinds, strict=True) if k == kind) for kind in range(3)]
        return list(np.cumsum([g * SHARES[k] / total[k] for g, k in zip(group, kinds, strict=True)]))

    def __call__(self, kind: Kind) -> tuple[torch.Tensor, list[str], list[str]]:
        """(x0 (B, 16, size/16, size/16), captions, captions of the backgrounds alone)."""
        stack, examples = self.store[kind.store]
        rows = self.rng.choices(range(len(examples)), cum_weights=self.weights[kind.store], k=kind.pictures)
        bare = [S.on_background("", examples[r].background).strip() for r in rows]
        captions = [
            b if self.rng.random() < DROP else self.draw.caption(examples[r]) for r, b in zip(rows, bare, strict=True)
        ]
        return torch.from_numpy(stack[rows].astype(np.float32)), captions, bare


def sigmas(count: int, size: int, between: tuple[float, float]) -> torch.Tensor:
    """Stratified over the batch, shifted for the size, from a part of the path."""
    tokens = (size // 32) ** 2
    grid = torch.linspace(0.001, 0.999, 999)
    inside = grid[(shifted(grid, tokens) >= between[0]) & (shifted(grid, tokens) <= between[1])]
    u = inside[0] + (inside[-1] - inside[0]) * (torch.arange(count) + torch.rand(count)) / count
    return shifted(u.clamp(1e-3, 1 - 1e-4), tokens)


def kind_of(share: float, rng: random.Random) -> str:
    """What to train on at this moment, a key of KINDS."""
    shares = next(shares for end, shares in SCHEDULE if share < end)
    return rng.choices(list(shares), list(shares.values()))[0]


def told_apart(
    model: Model, given: tuple[torch.Tensor, ...], bare: tuple[torch.Tensor, ...], v: torch.Tensor, told: torch.Tensor
) -> torch.Tensor:
    """What the caption changes in v (B, n, 64); 0 where it names no object or sigma is below GUIDED_ABOVE.

    Never by a compiled graph: one would be made for every number of pictures it is asked of.
    """
    x, sigma, ids = given
    change, rows = torch.zeros_like(v), told & (sigma > GUIDED_ABOVE)
    if rows.any():
        with torch.no_grad(), autocast(), torch.compiler.set_stance("force_eager"):
            change[rows] = v.detach()[rows] - model(x[rows], sigma[rows], ids, tuple(w[rows] for w in bare)).float()
    return change


def loss_of(
    model: Model, batch: tuple, kind: Kind, tokens: Tokens, rng: random.Random,
    noisy: float = 0.0, guidance: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of the velocity of each picture (B,); a share `noisy` of them above NOISY_FROM."""
    x0, captions, bare = batch
    side = kind.size // 32
    index = keep(side, kind.tokens, rng, kind.window)
    x0 = pack(x0)[:, index]
    n = round(noisy * len(x0)) if kind.between[1] > NOISY_FROM else 0
    sigma = torch.cat([sigmas(n, kind.size, (NOISY_FROM, 1.0)), sigmas(len(x0) - n, kind.size, kind.between)])
    noise = torch.randn_like(x0)
    s = sigma.view(-1, 1, 1)
    given = (1 - s) * x0 + s * noise, sigma, positions(side)[index]
    words = tokens(captions, full=True)
    with autocast():
        v = model(*given, words).float()
    target = noise - x0
    if guidance:
        told = torch.tensor([c != b for c, b in zip(captions, bare, strict=True)])
        target = target + guidance * told_apart(model, given, tokens(bare, full=True), v, told)
    return (v - target).square().mean((1, 2))


def start(init: Path | None, work: Path) -> Model:
    """Fresh transformer over pre-trained text encoders, or all from an exported model."""
    text = text_encoders.load(work, init)
    if init is None:
        return Model(build(), text)
    return Model(FluxTransformer2DModel.from_pretrained(init / "transformer", torch_dtype=torch.float32), text)


def place_heads(model: Model, batches: Batches, tokens: Tokens) -> None:
    """placement.place on four batches at 512 px."""
    shown = [batches(KINDS["512"]) for _ in range(4)]

    def run() -> None:
        with torch.no_grad():
            for batch in shown:
                loss_of(model, batch, KINDS["512"], tokens, random.Random(0))

    placement.place(model.transformer, run)


def train(args) -> None:
    """The loop."""
    prepare(args)
    model = start(args.init, args.work).train()
    optimiser = MuonAdam(parameter_groups(model, ADAM, adam_scale=0.25), LEARNING_RATE, betas=(0.9, 0.98))
    options = {"warmup": 0.02, "flat": 0.3, "floor": 0.01}
    rate = LEARNING_RATE * (AGAIN if args.init else 1)
    loop, seen = Loop(args, CHECKPOINT, model, optimiser, rate, decay=0.995, **options), {}
    batches, tokens = Batches(args.data, args.work, loop.seed), tokens_of(args.work, args.init)
    if args.place or not (args.init or args.resume):
        place_heads(model, batches, tokens)
    if args.compile:
        model.transformer.compile(dynamic=False)  # one graph for each kind
    for _ in loop:
        share = (1 + loop.share) / 2 if args.init else loop.share
        name = kind_of(share, loop.rng)
        kind = KINDS[name]
        noisy = NOISY if share < NOISY_UNTIL else 0.0
        guidance = GUIDANCE[kind.size] if share >= GUIDED_FROM else 0.0
        loss = loss_of(model, batches(kind), kind, tokens, loop.rng, noisy, guidance)
        loop.update(loss.mean())
        seen.setdefault(name, []).append(loss.mean().item())
        loop.report(lambda: "loss " + " ".join(f"{k}: {np.mean(v[-40:]):.4f}" for k, v in sorted(seen.items())))


def arguments(argv: list[str] | None = None) -> Namespace:
    """The command line."""
    p = parser(__doc__, 80)
    p.add_argument("--place", action="store_true", help="set the placed heads again in a model that is gone on with")
    p.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, a quarter less a step")
    return p.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
