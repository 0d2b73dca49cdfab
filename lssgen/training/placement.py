"""Give some attention heads a start: image tokens look at the cell token of their own place.

Which of T5's 64 cell tokens tells about a place is the same for every picture, but training alone finds it late: the
loss falls only once position and content are both right. So in some blocks two heads are set by hand. Their queries
are one constant vector, which the rotary embedding turns by the token's row and column. Their keys are fitted (ridge
regression, from what the block really sees) so that each cell's key is that vector turned by the cell's own row and
column: the logit is then a sum of cosines of the distance, largest at the right place. One head counts two tokens to
a cell (512 px), the other four (1024 px). All stays trainable, and what the heads read and do with it is learned.
"""

from collections.abc import Callable

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from lssgen.training.common import fit_linear
from lssgen.training.tokens import CELLS, GRID

DOUBLE, SINGLE = (0, 1), (0, 2, 4)  # blocks
HEADS = {0: 2, 1: 4}  # head -> tokens of a cell's side
MARKER_SHARE = 0.15  # of the squared length, in the first axis, never turned here: + for cells, - for other tokens
PAIRS = 3  # frequencies a head uses, from the one that tells neighbouring cells apart
RIDGE = 1e-2


def frequencies(dimensions: int, theta: float = 10000.0) -> torch.Tensor:
    """Angles a token of the rotary embedding's axes, as FluxPosEmbed has them."""
    return theta ** -(torch.arange(0, dimensions, 2) / dimensions)


def turned(rows: torch.Tensor, columns: torch.Tensor, pitch: int, axes: tuple[int, int, int]) -> torch.Tensor:
    """(n, head dimensions): the constant query turned to these token positions, of length sqrt(dimensions)."""
    head = sum(axes)
    out = torch.zeros(len(rows), head)
    out[:, : axes[0]] = (MARKER_SHARE * head / axes[0]) ** 0.5
    amplitude = ((1 - MARKER_SHARE) * head / (2 * PAIRS)) ** 0.5
    first = pitch.bit_length() - 2  # pitch 2: angles from 1 a token; pitch 4: from about half of that
    for start, size, at in ((axes[0], axes[1], rows), (axes[0] + axes[1], axes[2], columns)):
        for k in range(first, first + PAIRS):
            angle = at * frequencies(size)[k]
            out[:, start + 2 * k], out[:, start + 2 * k + 1] = amplitude * angle.cos(), amplitude * angle.sin()
    return out


def cell_keys(pitch: int, axes: tuple[int, int, int]) -> torch.Tensor:
    """(64, head dimensions): keys of the cells, row by row, each at its centre."""
    at = torch.arange(GRID) * pitch + (pitch - 1) / 2
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    return turned(rows.flatten(), columns.flatten(), pitch, axes)


def elsewhere(axes: tuple[int, int, int]) -> torch.Tensor:
    """(head dimensions,): the key of every token that is no cell."""
    key = torch.zeros(sum(axes))
    key[: axes[0]] = -((sum(axes) / axes[0]) ** 0.5)
    return key


@torch.no_grad()
def _seen(attention: nn.Module, run: Callable[[], None]) -> torch.Tensor:
    """The states with the cells first that an attention module gets while `run` runs: text alone, or all in one."""
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, __: tuple, given: dict) -> None:
        text = given.get("encoder_hidden_states")
        seen.append((given["hidden_states"] if text is None else text).float())

    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return torch.cat(seen)


@torch.no_grad()
def place(model: FluxTransformer2DModel, run: Callable[[], None]) -> None:
    """Sets the heads; `run` passes some training batches of one shape through the model."""
    axes = tuple(model.config.axes_dims_rope)
    double = [model.transformer_blocks[k].attn for k in DOUBLE]
    for attention in (*double, *(model.single_transformer_blocks[k].attn for k in SINGLE)):
        x, joint = _seen(attention, run), attention not in double
        layer, norm = (attention.to_k, attention.norm_k) if joint else (attention.add_k_proj, attention.norm_added_k)
        for head, pitch in HEADS.items():
            rows = slice(head * sum(axes), (head + 1) * sum(axes))
            still = turned(torch.zeros(1), torch.zeros(1), pitch, axes)[0]
            attention.to_q.weight[rows], attention.to_q.bias[rows] = 0.0, still / attention.norm_q.weight
            wanted = elsewhere(axes).expand(*x.shape[:2], -1).clone()
            wanted[:, : len(CELLS)] = cell_keys(pitch, axes)
            fit_linear(layer, x.flatten(0, 1), (wanted / norm.weight).flatten(0, 1), RIDGE, rows)
            if not joint:
                attention.to_k.weight[rows], attention.to_k.bias[rows] = 0.0, elsewhere(axes) / attention.norm_k.weight
