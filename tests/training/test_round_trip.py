"""A RoundTripUpsampler begun as the autoencoder's own layers, and trained on by the command."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from lssgen.training import round_trip, vaes
from lssgen.training.eval_upsampler import checkpoint
from lssgen.training.recipe import Training, recall
from lssgen.training.round_trip import Squares
from lssgen.upsampler import RoundTripUpsampler
from tests.training.test_train_upsampler import of_small_crops, refusal, run
from tests.training.test_vaes import tiny_pair


@pytest.fixture(autouse=True)
def small(monkeypatch):
    of_small_crops(monkeypatch)


@pytest.fixture
def vae(tmp_path):
    return vaes.load(str(tiny_pair(tmp_path)), is_tiny=True, key="toy")


def test_least_squares_find_the_convolution_that_was_there():
    torch.manual_seed(0)
    true, found, squares = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Conv2d(4, 6, 3, padding=1), Squares()
    before = found.weight.detach().clone()
    with torch.no_grad():
        for side in (9, 12):
            x = torch.randn(1, 3, side, side)
            squares.add(x, true(x))
        squares.solve(found, slice(1, 6))
    torch.testing.assert_close(found.weight[1:, :3], true.weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.bias[1:], true.bias, atol=1e-3, rtol=0)
    assert torch.equal(found.weight[0], before[0])
    assert torch.equal(found.weight[:, 3], before[:, 3])


def test_what_is_not_finite_is_refused():
    squares = Squares()
    squares.add(torch.full((1, 3, 9, 9), torch.nan), torch.zeros(1, 5, 9, 9))
    with pytest.raises(ValueError, match="its weights are damaged"):
        squares.solve(torch.nn.Conv2d(3, 5, 3, padding=1))


def test_it_begins_with_the_autoencoders_layers(vae):
    model, network = round_trip.begin(vae), vae.network
    assert (model.config.vae, model.config.in_channels, model.factor) == ("toy", vae.channels, vae.factor)
    z, layers = torch.randn(1, 4, 4, 6), network.decoder.layers
    features = model.features(z)
    assert features.shape[-2:] == (16, 24)
    clamped = torch.tanh(z / 3) * 3
    torch.testing.assert_close(layers[15:](features), layers(clamped))
    whole, layers = torch.rand(1, 3, 64, 64), network.encoder.layers
    fine = layers[: len(layers) - len(model.encode)]
    assert fine(whole).shape[-2:] == (16, 16)
    torch.testing.assert_close(model.encode(fine(whole)), layers(whole))


def test_fitted_it_answers_as_the_round_trip_does(vae):
    """Random layers are smooth enough to be all but linear."""
    torch.manual_seed(0)
    pairs = []
    for k in range(12):
        whole = F.interpolate(torch.rand(1, 3, 9, 9) * 2 - 1, (64, 64), mode="bicubic").clamp(-1, 1)
        small = 32 if k % 2 else 48
        pairs.append((whole[0], F.interpolate(whole, (small, small), mode="area")[0]))
    model = round_trip.begin(vae)

    def error() -> float:
        """Mean squared, over how much the answers wanted vary from place to place."""
        found = 0.0
        for _, small in pairs:
            low = vae.encode(small[None])
            wanted = vae.encode(F.interpolate(vae.decode(low).clamp(-1, 1), (64, 64), mode="bicubic").clamp(-1, 1))
            spread = (wanted - wanted.mean((2, 3), keepdim=True)).square().mean()
            found += float((model(low, wanted.shape[-2:]) - wanted).square().mean() / spread)
        return found / len(pairs)

    with torch.no_grad():
        before = error()
        round_trip.fit(model, vae, iter(pairs))
        after = error()
    assert after < 0.01 * before


def test_the_command_trains_one_resumes_it_and_measures_it(images, tmp_path, capsys):
    pair, out, more = tiny_pair(tmp_path), tmp_path / "out", tmp_path / "more"
    given = ["--vae", pair, "--tiny", "--key", "toy", "--images", images, "--batch", "2", "--pixels-from", "0"]
    assert run("train-upsampler", *given, "--out", out, "--steps", "1", "--size", "round-trip") == 0
    assert "fitting" in capsys.readouterr().out
    first = checkpoint(out, vaes.load(str(pair), is_tiny=True, key="toy"))
    assert isinstance(first, RoundTripUpsampler)
    facts = json.loads((out / "training.json").read_text())
    assert list(facts["calibrated"]) == ["all"]
    assert set(facts["held_out"]) == {"x2", "x1.5"}
    assert facts["learning_rate"] == 1e-4, "its own default: the others' ruins what it begins with"
    assert run("train-upsampler", "--resume", "--out", out, "--steps", "2") == 0
    assert "fitting" not in capsys.readouterr().out
    taught = [*given, "--out", more, "--steps", "1", "--init", out, "--distill", "0.5", "--teacher", out, out]
    assert run("train-upsampler", *taught) == 0
    assert recall(more).teacher == (str(out), str(out))
    for option in (["--keep-doubling"], ["--size", "large"]):
        assert "is a round trip" in refusal(
            capsys, "train-upsampler", *given, "--out", tmp_path / "no", "--init", out, *option
        )


def test_what_cannot_become_one_is_refused(images, tmp_path, capsys):
    options = ["--images", images, "--out", tmp_path / "out", "--steps", "1", "--size", "round-trip"]
    pooled = tiny_pair(tmp_path, "pooled", pooled=True)
    assert "take --size large" in refusal(capsys, "train-upsampler", "--vae", pooled, "--tiny", *options)
    plain = tiny_pair(tmp_path, "plain")
    given = ["--vae", plain, "--tiny", "--images", images, "--batch", "2", "--steps", "1"]
    assert run("train-upsampler", *given, "--out", tmp_path / "small") == 0
    init = ["--init", tmp_path / "small"]
    assert "no round trip" in refusal(capsys, "train-upsampler", "--vae", plain, "--tiny", *options, *init)
    assert "keep_doubling needs" in refusal(
        capsys, "train-upsampler", *given, "--out", tmp_path / "no", "--keep-doubling"
    )
    assert not (tmp_path / "no").exists()


def test_a_teacher_may_be_another_than_what_is_begun_with():
    assert Training(vae="v", images="i", distill=0.5, teacher="there").init == ()
    with pytest.raises(ValueError, match="distill needs teacher"):
        Training(vae="v", images="i", distill=0.5)
