"""Teach T5 which words belong to which object of a scene.

Left to itself the regression gives every object of a scene the same mixture of all the words. So the cells that an
object covers are told to look, of all words that name objects, at those of their own: the loss is the cross entropy
of the share of their attention that goes there, mean over some layers and heads (a loss on attention as supervision:
Liu et al. 2016, arXiv 1609.04186). To be told apart, each word must know the how manieth object it names, and the mean
state of one object's words must know that object's picture alone.

All this needs the order of the words, which T5 has from its biases of relative position only, and left to itself it
hardly learns them: it becomes a bag of words. So two heads get a start: one prefers what comes next, one what came
before. And logits are kept small. T5 does not divide them by the root of the dimensions and has no norms on queries and
keys, so matrices that Muon lengthens step by step end in attention to one token each, which has no gradient left.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5EncoderModel

from lssgen.training import scenes as S
from lssgen.training.tokens import CELLS, GRID, Tokens

FLOOR = 1e-3  # of a share, before its logarithm
SIDE = 1 << 12  # px that boxes are computed at
LOGITS = 3.0  # the most that their deviation is
NEAR, PREFERENCE = 31, 2.0  # tokens that count as near; what a head's bias towards one side is, and against the other


@torch.no_grad()
def place(t5: T5EncoderModel) -> None:
    """Biases head 0 towards the words that follow, head 1 towards those before."""
    attention = t5.encoder.block[0].layer[0].SelfAttention
    buckets = attention._relative_position_bucket(
        torch.arange(1, NEAR + 1), True, attention.relative_attention_num_buckets,
        attention.relative_attention_max_distance,
    ).unique()  # fmt: skip
    half = attention.relative_attention_num_buckets // 2
    for head, sign in ((0, 1.0), (1, -1.0)):
        attention.relative_attention_bias.weight[buckets, head] = sign * PREFERENCE
        attention.relative_attention_bias.weight[buckets - half, head] = -sign * PREFERENCE


@torch.no_grad()
def cool(t5: T5EncoderModel, ids: torch.Tensor) -> None:
    """Shortens each head's queries and keys alike, so that its logits' deviation is at most LOGITS on ids (B, L).

    After QK-Clip (Kimi K2, arXiv 2507.20534), which bounds the largest logit seen.
    """

    def shorten(attention: nn.Module, given: tuple, named: dict) -> None:
        x = given[0] if given else named["hidden_states"]
        layers = attention.q, attention.k
        q, k = (layer(x).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for layer in layers)
        deviation = (q @ k.mT).std((0, 2, 3))
        shorter = (LOGITS / deviation).clamp(max=1.0).sqrt().view(-1, 1, 1)
        for layer in layers:
            layer.weight.view(attention.n_heads, -1, layer.in_features).mul_(shorter)

    attentions = [block.layer[0].SelfAttention for block in t5.encoder.block]
    hooks = [attention.register_forward_pre_hook(shorten, with_kwargs=True) for attention in attentions]
    try:
        t5(ids)
    finally:
        for hook in hooks:
            hook.remove()


def spans(caption: str, labels: Sequence[str]) -> list[tuple[int, int]]:
    """Characters of the caption that name each label, in this order. Raises ValueError if one is not there."""
    found, at = [], 0
    for label in labels:
        start = caption.index(label, at)
        at = start + len(label)
        found.append((start, at))
    return found


def named(tokens: Tokens, captions: Sequence[str], labels: Sequence[Sequence[str]], length: int) -> torch.Tensor:
    """(B, K, length - 64) bool: which words of T5's sequence name each object, K the most objects of a caption."""
    out = torch.zeros(len(captions), max(map(len, labels)), length, dtype=torch.bool)
    offsets = tokens.t5(list(captions), return_offsets_mapping=True).offset_mapping
    for b, (caption, of) in enumerate(zip(captions, labels, strict=True)):
        for k, (start, end) in enumerate(spans(caption, of)):
            for at, (first, last) in enumerate(offsets[b][:length]):
                if start <= first < last <= end:
                    out[b, k, at] = True
    return out[..., len(CELLS) :]


def covered(examples: Sequence[S.Example]) -> torch.Tensor:
    """(B, K, 64) bool: the cells whose centre each object's box covers."""
    out = torch.zeros(len(examples), max(len(e.objects) for e in examples), GRID, GRID, dtype=torch.bool)
    centre = (torch.arange(GRID) + 0.5) * SIDE / GRID
    for b, e in enumerate(examples):
        for k, (top, left, side) in enumerate(S.boxes(e, SIDE)):
            rows, columns = ((start <= centre) & (centre < start + side) for start in (top, left))
            out[b, k] = rows[:, None] & columns
    return out.flatten(2)


def loss_of(attention: torch.Tensor, words: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Mean over the covered cells of -log of the share of attention to the own object's words, among all objects'.

    Args:
        attention: (B, L, L), rows sum to 1; the 64 cells come first, then the words.
        words: (B, K, L - 64) bool, of `named`.
        cells: (B, K, 64) bool, of `covered`.
    """
    looks = torch.einsum("bcw,bkw->bkc", attention[:, : len(CELLS), len(CELLS) :], words.to(attention.dtype))
    share = looks / looks.sum(1, keepdim=True).clamp(min=1e-6)
    return -share[cells].clamp(min=FLOOR).log().mean()


def order_loss(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of which object each word names; logits (B, W, at least K), words (B, K, W) bool.

    Of pictures with more than one object; 0 where there are none.
    """
    several = (words.any(-1).sum(1) > 1).view(-1, 1, 1)
    b, k, w = torch.nonzero(words & several, as_tuple=True)
    return F.cross_entropy(logits[b, w].float(), k) if len(b) else logits.sum() * 0


def mean_state(states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, K, width): mean over the words (B, K, W) of each object, 0 where there are none; states (B, W, width)."""
    weight = words.to(states.dtype)
    return (weight @ states) / weight.sum(-1, keepdim=True).clamp(min=1)
