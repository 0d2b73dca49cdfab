"""What the training scripts share: the optimiser and its learning rate."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from lssgen.training.precision import bfloat16_pays

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


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


def rate(share: float, warmup: float = 0.03, floor: float = 0.0, flat: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, `flat` share held, then half a cosine down to `floor`."""
    if share < warmup:
        return max(0.02, share / warmup)
    t = max(0.0, (share - warmup - flat) / max(1e-6, 1 - warmup - flat))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


def set_rate(optimiser: Optimizer, lr: float) -> None:
    """The base learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr
