"""Words and cells of an object are found, and looking elsewhere costs."""

from __future__ import annotations

import math

import pytest
import torch

from lssgen.training import binding, data, text_encoders, tokens
from lssgen.training.scenes import ABOVE, Example


def test_labels_are_found_in_the_order_of_the_objects():
    caption = "a flat cat next to a flat cat house on a red background"
    found = binding.spans(caption, ["cat", "cat house"])
    assert [caption[a:b] for a, b in found] == ["cat", "cat house"]
    assert found[0] == (7, 10)
    with pytest.raises(ValueError, match="substring"):
        binding.spans(caption, ["dog"])


def test_words_that_name_an_object(tmp_path):
    pictures = [data.Picture("", "flat", label, "", (), 64) for label in ("red apple", "cat")]
    tokens.save_tokenizers(pictures * 40, tmp_path)
    both = tokens.Tokens(tmp_path)
    caption = "a flat red apple next to a flat cat"
    ids = both([caption, "flat cat"])[1]
    words = binding.named(both, [caption, "flat cat"], [["red apple", "cat"], []], ids.shape[1])
    read = [both.t5.decode(ids[0, 64:][w]) for w in words[0]]
    assert read == ["red apple", "cat"]
    assert not words[1].any(), "no label given, no words"


def test_cells_an_object_covers():
    left, right = binding.covered([Example((0, 1))])[0].view(2, 8, 8)
    rows = torch.arange(8)
    middle = (rows >= 2) & (rows < 6)
    assert torch.equal(left, middle[:, None] & (rows < 4))
    assert torch.equal(right, middle[:, None] & (rows >= 4))
    top, bottom = binding.covered([Example((0, 1), place=ABOVE)])[0].view(2, 8, 8)
    assert torch.equal(top, (rows < 4)[:, None] & middle)
    assert torch.equal(bottom, (rows >= 4)[:, None] & middle)
    three = binding.covered([Example((0, 1, 2))])[0]
    assert (three.sum(0) <= 1).all(), "no cell belongs to two"
    assert three.any(1).all()


def test_looking_at_the_other_objects_words_costs():
    cells = binding.covered([Example((0, 1))])
    words = torch.tensor([[[True, False, False, True], [False, True, False, False]]])

    def attention(own: float) -> torch.Tensor:
        """Of each cell: `own` of its half on its own object's words, the rest on the other's; half on word 2."""
        a = torch.zeros(1, 68, 68)
        a[..., 64 + 2] = 0.5
        for k, other in ((0, 1), (1, 0)):
            a[:, :64][:, cells[0, k], 64 + k] = own / 2
            a[:, :64][:, cells[0, k], 64 + other] = (1 - own) / 2
        return a

    assert binding.loss_of(attention(1.0), words, cells).item() == pytest.approx(0.0, abs=1e-6)
    assert binding.loss_of(attention(0.5), words, cells).item() == pytest.approx(math.log(2), rel=1e-4)
    assert binding.loss_of(attention(0.0), words, cells).item() == pytest.approx(-math.log(binding.FLOOR), rel=1e-4)


def test_words_know_which_object_they_name():
    words = torch.tensor([[[True, True, False], [False, False, True]], [[True, True, True], [False, False, False]]])
    right = torch.full((2, 3, 3), -20.0)
    right[0, :2, 0] = right[0, 2, 1] = 20.0
    assert binding.order_loss(right, words).item() == pytest.approx(0.0, abs=1e-6)
    assert binding.order_loss(torch.zeros(2, 3, 3), words).item() == pytest.approx(math.log(3))
    assert binding.order_loss(torch.zeros(1, 3, 3), words[1:]).item() == 0.0, "one object has no order"


def test_placed_heads_look_ahead_and_back():
    t5 = text_encoders.TextEncoders(vocabulary=64).t5
    binding.place(t5)
    bias = t5.encoder.block[0].layer[0].SelfAttention.compute_bias(96, 96)[0]
    middle = 70
    ahead, back = slice(middle + 1, middle + 26), slice(middle - 31, middle)
    assert (bias[0, middle, ahead] == binding.PREFERENCE).all()
    assert (bias[0, middle, back] == -binding.PREFERENCE).all()
    assert torch.equal(bias[1, middle, ahead], -bias[0, middle, ahead])
    assert torch.equal(bias[1, middle, back], -bias[0, middle, back])
    assert (bias[:2, middle, middle].abs() < binding.PREFERENCE / 2).all(), "itself it knows anyway"


def test_logits_are_kept_small():
    """Queries and keys of heads that grew too long are shortened, in every layer; short ones stay."""
    torch.manual_seed(0)
    t5 = text_encoders.TextEncoders(vocabulary=64).t5
    attentions = [block.layer[0].SelfAttention for block in t5.encoder.block]
    with torch.no_grad():
        for attention in attentions:
            attention.q.weight.normal_()
            attention.k.weight.normal_()
            attention.k.weight[:64] *= 1e-4
    short = attentions[2].q.weight[:64].clone()
    ids = torch.randint(0, 128, (4, 80))
    binding.cool(t5, ids)
    seen = []
    for attention in attentions:
        attention.register_forward_pre_hook(lambda a, given, named: seen.append(given[0]), with_kwargs=True)
    t5(ids)
    for attention, x in zip(attentions, seen, strict=True):
        q, k = (layer(x).view(4, 80, 4, 64).transpose(1, 2) for layer in (attention.q, attention.k))
        deviation = (q @ k.mT).std((0, 2, 3))
        torch.testing.assert_close(deviation[1:], torch.full((3,), binding.LOGITS), rtol=1e-3, atol=0)
        assert deviation[0] < binding.LOGITS
    assert torch.equal(attentions[2].q.weight[:64], short)


def test_mean_state_of_an_objects_words():
    states = torch.arange(8.0).view(1, 4, 2)
    words = torch.tensor([[[True, True, False, False], [False, False, False, False]]])
    assert binding.mean_state(states, words).tolist() == [[[1.0, 2.0], [0.0, 0.0]]]
