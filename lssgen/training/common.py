"""What the training scripts share: average of the weights, checkpoints, the loop."""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lssgen.hub import brief
from lssgen.training.optimiser import rate, set_rate


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


@torch.no_grad()
def fit_linear(layer: nn.Linear, x: torch.Tensor, y: torch.Tensor, ridge: float, rows: slice = slice(None)) -> None:
    """Ridge regression of y (N, rows) on x (N, features) into these rows of a linear layer."""
    mean, target = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, (x - mean).T @ (y - target)).T
    layer.weight[rows], layer.bias[rows] = weight, target - weight @ mean


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
