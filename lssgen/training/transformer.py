"""Train the transformer (FluxTransformer2DModel) on the pre-trained text encoders, which stay as they are.

    python -m lssgen.training.transformer --data DIR --work DIR [--minutes 80] [--resume] [--init assets/embedded]

Flow matching: x = (1 - sigma) x0 + sigma noise, target noise - x0, sigma uniform and then shifted as the sampler
shifts it for the picture's token count. Every step has one size: 256 px (64 tokens), 512 (256) or 1024 (1,024). At
1024 px most steps see a random quarter of the tokens with their true positions, which is several times cheaper (the
table SCHEDULE); the last part of the time sees whole pictures. There are fewer true 1024 px latents than pictures: the
noisy part of the path, sigma > DOUBLED_FROM, is trained at 1024 px with 512 px latents doubled by the upsampler, the
clean part, sigma < TRUE_TO, with true ones.

From GUIDED_FROM of the time on, the target of captioned pictures is the velocity plus GUIDANCE times what the caption
changes, v(x, caption) - v(x, no caption), without gradient (model guidance, arXiv 2502.12154). Where that is learned,
one call gives what classifier-free guidance of scale 1 / (1 - GUIDANCE) gives in two.
Writes WORK/transformer.{safetensors,pt}.
"""

import math
import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from lssgen.training import data as D
from lssgen.training import latents, placement, text_encoders
from lssgen.training.common import Loop, MuonAdam, parameter_groups, parser, prepare

LEARNING_RATE = 3e-3
SHARES = (0.78, 0.13, 0.09)  # pictures on white, on a colour, scenes of two
DROP = 0.1  # captions left empty
GUIDANCE, GUIDED_FROM = 0.55, 0.5  # see above; share of the time
DOUBLED_FROM, TRUE_TO = 0.3, 0.5  # at 1024 px: doubled latents serve above this sigma, true ones below that
# half the pictures above sigma 0.8 (layout) in the first 75 % of the time
NOISY, NOISY_FROM, NOISY_UNTIL = 0.5, 0.8, 0.75
TRUE = 0.2  # share of true encodings at 1024 px
ADAM = ("x_embedder", "time_text_embed", "norm_out")
CHECKPOINT = "transformer"
# share of the time -> (size, tokens kept, pictures, weight)
SCHEDULE = (
    (0.80, ((512, 256, 16, 0.45), (1024, 256, 16, 0.47), (256, 64, 32, 0.08))),
    (1.01, ((512, 256, 16, 0.40), (1024, 1024, 4, 0.52), (256, 64, 32, 0.08))),
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
        """Velocity of tokens x (B, n, 64) at positions ids (n, 3); one caption's words serve the whole batch."""
        with torch.no_grad():
            pooled, states = self.text(*words)
        if len(pooled) < len(x):
            pooled, states = pooled.repeat(len(x), 1), states.repeat(len(x), 1, 1)
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


def keep(side: int, count: int, rng: random.Random) -> torch.Tensor:
    """Indices of `count` tokens: random blocks of 1, 2 x 2 or 4 x 4."""
    if count >= side * side:
        return torch.arange(side * side)
    block = rng.choice([1, 2, 4])
    n = side // block
    chosen = torch.tensor(rng.sample(range(n * n), count // block**2))
    grid = torch.arange(side * side).view(n, block, n, block).permute(0, 2, 1, 3).reshape(n * n, -1)
    return grid[chosen].flatten()


def shifted(u: torch.Tensor, tokens: int) -> torch.Tensor:
    """The scheduler's dynamic shift: sigma = e^mu / (e^mu + 1 / u - 1), mu linear from (64, .5) to (1024, 1.15)."""
    mu = 0.5 + (1.15 - 0.5) * (tokens - 64) / (1024 - 64)
    return math.exp(mu) / (math.exp(mu) + 1 / u - 1)


class Batches:
    """Clean latents and their captions at a wanted size."""

    def __init__(self, data: Path, work: Path, seed: int):
        self.pictures = D.read_captions(data)
        self.draw, self.rng = D.Examples(self.pictures, seed), random.Random(seed)
        self.store = {str(size): latents.load(work, size) for size in (256, 512, 1024)}
        self.store["1024u"] = (np.load(work / "latents_1024u.npy", mmap_mode="r"), self.store["512"][1])
        self.weights = {key: self._weights(examples) for key, (_, examples) in self.store.items()}

    def _weights(self, examples: list[D.Example]) -> list[float]:
        """Cumulative: SHARES for pictures on white, on colours, scenes; D.GROUP_WEIGHTS."""
        kinds = [2 if e.right is not None else 1 if e.colour else 0 for e in examples]
        group = [
            D.GROUP_WEIGHTS.get(self.pictures[e.left].group, 1.0) if not k else 1.0
            for e, k in zip(examples, kinds, strict=True)
        ]
        total = [sum(g for g, k in zip(group, kinds, strict=True) if k == kind) for kind in range(3)]
        return list(np.cumsum([g * SHARES[k] / total[k] for g, k in zip(group, kinds, strict=True)]))

    def __call__(self, size: int, count: int) -> tuple[torch.Tensor, list[str], tuple[float, float]]:
        """(x0 (B, 16, size/16, size/16), captions, between which sigmas they are good to train on)."""
        key = "1024u" if size == 1024 and self.rng.random() > TRUE else str(size)
        stack, examples = self.store[key]
        rows = self.rng.choices(range(len(examples)), cum_weights=self.weights[key], k=count)
        x0 = torch.from_numpy(stack[rows].astype(np.float32))
        captions = ["" if self.rng.random() < DROP else self.draw.caption(examples[r]) for r in rows]
        return x0, captions, {"1024u": (DOUBLED_FROM, 1.0), "1024": (0.0, TRUE_TO)}.get(key, (0.0, 1.0))


def sigmas(count: int, size: int, between: tuple[float, float]) -> torch.Tensor:
    """Stratified over the batch, shifted for the size, from a part of the path."""
    tokens = (size // 32) ** 2
    grid = torch.linspace(0.001, 0.999, 999)
    inside = grid[(shifted(grid, tokens) >= between[0]) & (shifted(grid, tokens) <= between[1])]
    u = inside[0] + (inside[-1] - inside[0]) * (torch.arange(count) + torch.rand(count)) / count
    return shifted(u.clamp(1e-3, 1 - 1e-4), tokens)


def plan_of(share: float, rng: random.Random) -> tuple[int, int, int]:
    """(size, tokens, pictures) for this moment."""
    rows = next(rows for end, rows in SCHEDULE if share < end)
    return rng.choices(rows, [r[3] for r in rows])[0][:3]


def loss_of(
    model: Model, batch: tuple, size: int, count: int, tokens: text_encoders.Tokens, rng: random.Random,
    noisy: float = 0.0, guidance: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of the velocity of each picture (B,); a share `noisy` of them above NOISY_FROM."""
    x0, captions, between = batch
    side = size // 32
    index = keep(side, count, rng)
    x0 = pack(x0)[:, index]
    n = round(noisy * len(x0)) if between[1] > NOISY_FROM else 0
    sigma = torch.cat([sigmas(n, size, (NOISY_FROM, 1.0)), sigmas(len(x0) - n, size, between)])
    noise = torch.randn_like(x0)
    s = sigma.view(-1, 1, 1)
    given = (1 - s) * x0 + s * noise, sigma, positions(side)[index]
    with torch.autocast("cpu", torch.bfloat16):
        v = model(*given, tokens(captions, full=True)).float()
    target = noise - x0
    if guidance:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            untold = model(*given, tokens([""], full=True)).float()
        told = torch.tensor([bool(c) for c in captions]).view(-1, 1, 1)
        target = target + guidance * told * (v.detach() - untold)
    return (v - target).square().mean((1, 2))


def start(init: Path | None, work: Path) -> Model:
    """Fresh transformer over pre-trained text encoders, or all from an exported model."""
    text = text_encoders.load(work, init)
    if init is None:
        return Model(build(), text)
    return Model(FluxTransformer2DModel.from_pretrained(init / "transformer", torch_dtype=torch.float32), text)


def place_heads(model: Model, batches: Batches, tokens: text_encoders.Tokens) -> None:
    """placement.place on four batches at 512 px."""
    shown = [batches(512, 16) for _ in range(4)]

    def run() -> None:
        with torch.no_grad():
            for batch in shown:
                loss_of(model, batch, 512, 256, tokens, random.Random(0))

    placement.place(model.transformer, run)


def train(args) -> None:
    """The loop."""
    prepare(args)
    model = start(args.init, args.work).train()
    optimiser = MuonAdam(parameter_groups(model, ADAM, adam_scale=0.25), LEARNING_RATE, betas=(0.9, 0.98))
    options = {"warmup": 0.02, "flat": 0.3, "floor": 0.01}
    loop, seen = Loop(args, CHECKPOINT, model, optimiser, LEARNING_RATE, decay=0.995, **options), {}
    batches, tokens = Batches(args.data, args.work, loop.seed), text_encoders.tokens_of(args.work, args.init)
    if args.place or not (args.init or args.resume):
        place_heads(model, batches, tokens)
    if args.compile:
        model.transformer.compile(dynamic=False)  # one graph for each row of SCHEDULE
    for _ in loop:
        size, count, pictures = plan_of(loop.share, loop.rng)
        batch = batches(size, pictures)
        noisy = NOISY if loop.share < NOISY_UNTIL else 0.0
        guidance = GUIDANCE if loop.share >= GUIDED_FROM else 0.0
        loss = loss_of(model, batch, size, count, tokens, loop.rng, noisy, guidance)
        loop.update(loss.mean())
        seen.setdefault(f"{size}u" if batch[2][0] else str(size), []).append(loss.mean().item())
        loop.report(lambda: "loss " + " ".join(f"{k}: {np.mean(v[-40:]):.4f}" for k, v in sorted(seen.items())))


def arguments(argv: list[str] | None = None) -> Namespace:
    """The command line."""
    p = parser(__doc__, 80)
    p.add_argument("--place", action="store_true", help="set the placed heads again in a model that is gone on with")
    p.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, a quarter less a step")
    return p.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
