"""What the training scripts share: optimiser, average of the weights, learning rate, checkpoints, the loop."""

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lssgen.hub import brief

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@cache
def bfloat16_pays() -> bool:
    """Whether this processor multiplies in bfloat16 faster than in float32: measured, since one without the
    instructions is a hundred times slower. The least of the processor's own seconds: other work does not count."""
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, times = torch.ones(256, 1024, dtype=dtype), []
        for _ in range(7):
            start = time.process_time()
            x @ x.T
            times.append(time.process_time() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def autocast() -> torch.autocast:
    """Mixed precision where it is the faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays())


def orthogonalise(g: torch.Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Newton-Schulz quintic iteration: the nearest semi-orthogonal matrix to g, about (Muon, Jordan 2024).

    Args:
        g: (out, rest), or several of one shape, (B, out, rest).
        steps: of the iteration.
        dtype: that it is done in; in bfloat16 where that pays if there is none.
    """
    a, b, c = NS_COEFFICIENTS
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.to(dtype or (torch.bfloat16 if bfloat16_pays() else g.dtype))
    wide = x.size(-2) <= x.size(-1)
    x = x if wide else x.mT
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x if wide else x.mT).to(g.dtype)


class MuonAdam(Optimizer):
    """Muon for matrices and convolutions (flattened to out x rest), Adam for everything else.

    torch.optim.Muon takes 2-D weights only; most of the autoencoder is 4-D. Muon updates are scaled by
    0.2 sqrt(max(out, in)) so that one learning rate fits both kinds (Moonshot's rule). Matrices of one shape go
    together: a GPU would wait for as many small products. `dtype`: see `orthogonalise`.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.97),
        dtype: torch.dtype | None = None,
    ):
        self.dtype = dtype
        super().__init__(groups, {"lr": lr, "muon": False, "weight_decay": 0.0, "betas": betas, "scale": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients present; `closure` is there for accelerate, which always passes one."""
        for group in self.param_groups:
            lr = group["lr"] * group["scale"]
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"]:
                for p in parameters:
                    p.mul_(1 - lr * group["weight_decay"])
            if group["muon"]:
                self._muon(parameters, lr)
            elif parameters:
                self._adam(parameters, lr, group["betas"])

    def _muon(self, parameters: list[nn.Parameter], lr: float) -> None:
        alike = defaultdict(list)
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            alike[p.flatten(1).shape].append(p)
        for shape, same in alike.items():
            momenta = [self.state[p]["momentum"] for p in same]
            for p, momentum in zip(same, momenta, strict=True):
                momentum.lerp_(p.grad, 0.05)
            ahead = torch.stack([p.grad.lerp(m, 0.95).flatten(1) for p, m in zip(same, momenta, strict=True)])
            updates = orthogonalise(ahead, dtype=self.dtype)
            for p, update in zip(same, updates, strict=True):
                p.add_(update.view_as(p), alpha=-lr * 0.2 * math.sqrt(max(shape)))

    def _adam(self, parameters: list[nn.Parameter], lr: float, betas: tuple[float, float]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(n=torch.zeros(()), m=torch.zeros_like(p), v=torch.zeros_like(p))
            self.state[p]["n"] = self.state[p]["n"].cpu()  # loading takes it to a GPU, which each step would wait for
        first, second, counts = ([self.state[p][name] for p in parameters] for name in "mvn")
        adam(
            parameters, [p.grad for p in parameters], first, second, [], counts,
            amsgrad=False, beta1=betas[0], beta2=betas[1], lr=lr, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip


def parameter_groups(
    module: nn.Module, adam: tuple[str, ...] = (), adam_scale: float = 1.0, scales: dict[str, float] | None = None
) -> list[dict]:
    """Muon for weights of two or more dimensions, Adam for the rest and for names that contain one of `adam`.

    Names that contain a key of `scales` are for Adam too, each key with a scale of the learning rate of its own.
    """
    muon, other, own = [], [], {key: [] for key in scales or {}}
    for name, p in module.named_parameters():
        if p.requires_grad:
            key = next((key for key in own if key in name), None)
            matrix = p.ndim >= 2 and not any(a in name for a in adam)
            (own[key] if key else muon if matrix else other).append(p)
    scaled = [{"params": own[key], "scale": scale} for key, scale in (scales or {}).items()]
    return [{"params": muon, "muon": True}, {"params": other, "scale": adam_scale}, *scaled]


class Average:
    """Exponential moving average of a module's weights; the horizon grows with the steps taken."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.steps = 0
        self.weights = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes the current weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = module.state_dict()
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), [now[k].float() for k in self.weights], None)


class Clock:
    """Progress of a run in time: a share of `minutes`, counted over resumed runs too."""

    def __init__(self, minutes: float, spent: float = 0.0):
        self.seconds = minutes * 60
        self.start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds trained."""
        return time.monotonic() - self.start

    @property
    def share(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, self.spent / self.seconds) if self.seconds else 1.0


def rate(share: float, warmup: float = 0.03, floor: float = 0.0, flat: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, `flat` share held, then half a cosine down to `floor`."""
    if share < warmup:
        return max(0.02, share / warmup)
    t = max(0.0, (share - warmup - flat) / max(1e-6, 1 - warmup - flat))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


@torch.no_grad()
def fit_linear(layer: nn.Linear, x: torch.Tensor, y: torch.Tensor, ridge: float, rows: slice = slice(None)) -> None:
    """Ridge regression of y (N, rows) on x (N, features) into these rows of a linear layer."""
    mean, target = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, (x - mean).T @ (y - target)).T
    layer.weight[rows], layer.bias[rows] = weight, target - weight @ mean


def set_rate(optimiser: Optimizer, lr: float) -> None:
    """The base learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def save_checkpoint(path: Path, module: nn.Module, average: Average, optimiser: Optimizer, numbers: dict) -> None:
    """PATH.safetensors (weights, average) and PATH.pt (optimiser, numbers), each replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v.contiguous() for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.weights.items()}
    part = path.with_suffix(".part")
    save_file({k: v.clone() for k, v in tensors.items()}, part)
    part.replace(path.with_suffix(".safetensors"))
    torch.save({"optimiser": optimiser.state_dict(), "average_steps": average.steps, **numbers}, part)
    part.replace(path.with_suffix(".pt"))


def load_checkpoint(path: Path, module: nn.Module, average: Average, optimiser: Optimizer) -> dict:
    """Restores what save_checkpoint stored, returns the numbers. Raises ValueError if they cannot be used."""
    if not path.with_suffix(".pt").is_file():
        raise ValueError(f"nothing to resume: {path.with_suffix('.pt')} does not exist")
    try:
        tensors = load_file(path.with_suffix(".safetensors"))
        numbers = torch.load(path.with_suffix(".pt"), map_location="cpu", weights_only=True)
        module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        optimiser.load_state_dict(numbers.pop("optimiser"))
    except Exception as error:  # safetensors, pickle and zip files each raise their own kinds
        raise ValueError(f"nothing to resume: the checkpoint {path}.* cannot be read ({brief(error)})") from error
    average.weights = {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
    average.steps = numbers.pop("average_steps")
    return numbers


def trained(path: Path) -> bool:
    """Whether there is a checkpoint to load the weights of."""
    return path.with_suffix(".safetensors").is_file()


def load_average(path: Path, module: nn.Module) -> nn.Module:
    """The averaged weights of a checkpoint, in the module."""
    if not trained(path):
        raise ValueError(f"{path.with_suffix('.safetensors')} does not exist: train that part first")
    tensors = load_file(path.with_suffix(".safetensors"))
    module.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
    return module


def prepare(args: argparse.Namespace) -> None:
    """Threads and seed, before the first weight is made."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)


class Loop:
    """The frame of a training script: time budget, learning rate, update, average, checkpoints, progress, resuming.

        for _ in (loop := Loop(args, "upsampler", model, optimiser, 4e-3, decay=0.995)):
            loop.update(loss)
            loop.report(lambda: "loss 0.1")

    The learning rate follows the share of the time (options of `rate`). Iterating ends when the time is over or
    --steps are done, with a checkpoint. `rng` and torch's generator are seeded by --seed and the step resumed at.
    """

    EVERY, SAVE_SECONDS = 25, 180

    def __init__(self, args, name: str, model: nn.Module, optimiser: Optimizer, lr: float, decay: float, **options):
        self.args, self.path, self.model, self.optimiser = args, args.work / name, model, optimiser
        self.lr, self.options, self.step, self.spent = lr, options, 0, 0.0
        self.average = Average(model, decay)
        if args.resume:
            numbers = load_checkpoint(self.path, model, self.average, optimiser)
            self.step, self.spent = numbers["step"], numbers["spent"]
        self.seed = args.seed + self.step
        self.rng = random.Random(self.seed)
        torch.manual_seed(self.seed)

    @property
    def share(self) -> float:
        """Share of the time spent."""
        return self.clock.share

    def __iter__(self) -> Iterator[int]:
        # the clock starts here: what a script sets up after making its loop is no training time
        self.clock = Clock(self.args.minutes, self.spent)
        self._tick = saved = time.monotonic()
        while self.share < 1 and (not self.args.steps or self.step < self.args.steps):
            set_rate(self.optimiser, self.lr * rate(self.share, **self.options))
            yield self.step
            if time.monotonic() - saved > self.SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def update(self, loss: torch.Tensor) -> None:
        """One step of the optimiser, gradients clipped to norm 1."""
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.model)
        self.step += 1

    def report(self, text: Callable[[], str]) -> None:
        """Prints progress every 25 steps."""
        if self.step % self.EVERY == 0:
            speed, left = (time.monotonic() - self._tick) / self.EVERY, (self.clock.seconds - self.clock.spent) / 60
            print(f"step {self.step} {text()} {speed:.2f} s/step {left:.1f} min left", flush=True)
            self._tick = time.monotonic()

    def save(self) -> None:
        """A checkpoint to resume from."""
        numbers = {"step": self.step, "spent": self.clock.spent}
        save_checkpoint(self.path, self.model, self.average, self.optimiser, numbers)


def parser(doc: str, minutes: float) -> argparse.ArgumentParser:
    """The options every training script has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder that holds emoji/ and emoji_svg.zip")
    p.add_argument("--work", type=Path, required=True, help="folder for caches and checkpoints")
    p.add_argument("--minutes", type=float, default=minutes, help="time budget; the learning rate follows it")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    p.add_argument("--init", type=Path, help="start from the weights of an exported model, e.g. assets/embedded")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: when the time is over)")
    return p
