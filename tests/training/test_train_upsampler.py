"""Training a latent upsampler: the two commands, resuming, their refusals, and that it learns."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

from lssgen.__main__ import main
from lssgen.latents import resize
from lssgen.measured import FILE as MEASURED
from lssgen.training import (
    decodes,
    eval_upsampler,
    measures,
    networks,
    pairs,
    photos,
    push,
    recipe,
    teacher,
    train_upsampler,
    vaes,
)
from lssgen.training.networks import build
from lssgen.training.recipe import Training, recall
from lssgen.training.trainer import Trainer
from lssgen.upsampler import LatentUpsampler, RoundTripUpsampler
from tests.families import tiny as pipelines
from tests.families.tiny import tiny_vae
from tests.training.drawings import drawing
from tests.training.test_vaes import tiny_pair

SMALL = ["--steps", "2", "--batch", "2", "--pixels-from", "0"]


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> Path:
    """A random f4 autoencoder of 4 channels."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(images, vae_folder, tmp_path_factory) -> Path:
    """What two steps leave."""
    out = tmp_path_factory.mktemp("trained")
    options = ["--vae", vae_folder, "--images", images, "--out", out, "--key", "toy", *SMALL]
    with pytest.MonkeyPatch.context() as patch:  # a fixture for the module comes before one for a test
        of_small_crops(patch)
        assert run("train-upsampler", *options) == 0
    return out


@pytest.fixture(autouse=True)
def small(monkeypatch):
    of_small_crops(monkeypatch)
    AcceleratorState._reset_state()  # it remembers the precision of the first accelerator of a process


def of_small_crops(patch: pytest.MonkeyPatch) -> None:
    """Crops of 64 px, few of them."""
    patch.setattr(train_upsampler, "SIDE", 64)
    patch.setattr("lssgen.training.trainer.FIRST", 2)


def toy_trainer(images: Path, vae_folder: Path, out: Path, training: Training | None = None) -> Trainer:
    """One of a small network, its pool filled."""
    fast = {"pixels_from": 0.0, "batch": 4, "latents": 0.2, "texture": 0.1, "spectrum": 0.3}
    training = training or Training(vae=str(vae_folder), images=str(images), **fast)
    vae, found = vaes.load(str(vae_folder)), photos.find(images, 64)
    torch.manual_seed(0)
    model = build("small", 4, "toy")
    trainer = Trainer(training, out, Accelerator(), vae, model, found, resume=False, say=print)
    trainer._encode(8)
    trainer.deviation = trainer.pool.deviation()
    return trainer


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def refusal(capsys, *arguments: object) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_training_leaves_an_upsampler_its_settings_and_figures(trained, images):
    model = LatentUpsampler.from_pretrained(trained)
    assert (model.config.in_channels, model.config.vae, model.config.norm_num_groups) == (4, "toy", 0)
    facts = json.loads((trained / "training.json").read_text())
    assert facts["steps"] == 2
    assert facts["pictures"] == {"used": 18, "held_out": 2, "small": 0, "broken": 0}
    assert set(facts["held_out"]) == {"x2", "x1.5"}
    assert all(set(psnr) == {"learned", "bicubic", "encode-decode"} for psnr in facts["held_out"].values())
    assert set(facts["calibrated"]) == {"doubling", "between"}
    assert (recall(trained).seed, recall(trained).images) == (0, str(images))


def test_it_resumes_from_its_folder_alone(trained, tmp_path, capsys):
    """Weights, optimiser, average and step go on; settings not given again are those of before."""
    out = shutil.copytree(trained, tmp_path / "out")
    before = torch.load(out / "checkpoint.pt", weights_only=True)
    (out / MEASURED).write_text("of the former weights")
    assert run("train-upsampler", "--resume", "--out", out, "--steps", 3, "--json") == 0
    assert not (out / MEASURED).exists()
    after = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (before["step"], after["step"], after["average_steps"]) == (2, 3, 3)
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert recall(out).key == "toy"


def test_resuming_at_the_end_changes_nothing(trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "out")
    assert run("train-upsampler", "--resume", "--out", out) == 0
    stored, again = (LatentUpsampler.from_pretrained(folder).state_dict() for folder in (trained, out))
    assert [key for key in stored if not torch.equal(stored[key], again[key])] == []


def test_resuming_keeps_network_and_latents(trained, tmp_path, capsys):
    out = shutil.copytree(trained, tmp_path / "out")
    weights = (out / "diffusion_pytorch_model.safetensors").read_bytes()
    resume = ["train-upsampler", "--resume", "--out", out, "--steps", 3]
    assert "begun with 'small'" in refusal(capsys, *resume, "--size", "large")
    assert "begun without it" in refusal(capsys, *resume, "--init", trained)
    assert "begun without it" in refusal(capsys, *resume, "--keep-doubling")
    assert "of 'toy'; these are of 'other'" in refusal(capsys, *resume, "--key", "other")
    assert (out / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert recipe.resumed(recall(out), {"minutes": 3.0, "size": "small"}).steps == 0
    assert recipe.resumed(recall(out), {"minutes": 3.0, "steps": 5}).steps == 5


def test_no_minutes_only_calibrate(trained, images, vae_folder, tmp_path, monkeypatch):
    """What is not calibrated stays to the bit, and it can be trained on from there."""
    monkeypatch.setattr(Trainer, "_train", lambda *_: pytest.fail("it trains"))
    out = tmp_path / "out"
    options = ["--vae", vae_folder, "--images", images, "--out", out, "--key", "toy", "--init", trained]
    assert run("train-upsampler", *options, "--minutes", 0) == 0
    before, after = (LatentUpsampler.from_pretrained(folder) for folder in (trained, out))
    last = {id(p) for layer in after.last_layers.values() for p in layer.parameters()}
    names = [name for name, p in after.named_parameters() if id(p) not in last]
    assert len(names) > 10
    assert all(torch.equal(before.state_dict()[name], after.state_dict()[name]) for name in names)
    facts = json.loads((out / "training.json").read_text())
    assert (facts["steps"], set(facts["calibrated"])) == (0, {"doubling", "between"})
    assert set(facts["held_out"]) == {"x2", "x1.5"}
    monkeypatch.undo()
    of_small_crops(monkeypatch)
    assert run("train-upsampler", "--resume", "--out", out, *SMALL[:2]) == 0
    assert json.loads((out / "training.json").read_text())["steps"] == 2


def test_new_layers_want_training(images, vae_folder, tmp_path, capsys):
    """What noise answers would be stored as an upsampler."""
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="toy").save_pretrained(tmp_path / "doubles")
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path / "out", "--key", "toy", "--minutes", 0]
    assert "a new small upsampler wants training" in refusal(capsys, "train-upsampler", *options)
    assert "only doubles" in refusal(capsys, "train-upsampler", *options, "--init", tmp_path / "doubles")
    assert not (tmp_path / "out").exists()


def test_of_several_to_start_from_the_mean_is_taken(images, vae_folder, tmp_path, capsys):
    """It resumes as one that was begun with them."""
    vae, folders = vaes.load(str(vae_folder), key="toy"), [tmp_path / name for name in ("a", "b", "c")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        build("small", 4, "toy").half().float().save_pretrained(folder)
    LatentUpsampler.from_config({**LatentUpsampler.load_config(folders[0]), "vae": "alien"}).save_pretrained(
        tmp_path / "foreign"
    )
    a, b, c = (LatentUpsampler.from_pretrained(folder).state_dict() for folder in folders)
    mean = networks.mean_of([str(folder) for folder in folders], vae).state_dict()
    torch.testing.assert_close(dict(mean), {name: (a[name] + b[name] + c[name]) / 3 for name in a})
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", "--minutes", 0]
    out = ["--out", tmp_path / "out"]
    assert run("train-upsampler", *options, *out, "--init", *folders) == 0
    made = LatentUpsampler.from_pretrained(tmp_path / "out").state_dict()
    inner = {name: w for name, w in made.items() if "conv_out" not in name}  # the last layers are calibrated
    torch.testing.assert_close(inner, {name: mean[name].half().float() for name in inner}, atol=0, rtol=0)
    assert recall(tmp_path / "out").init == tuple(map(str, folders))
    with pytest.raises(ValueError, match="differ in kind"):
        networks.mean_of([str(folders[0]), str(tmp_path / "foreign")], vaes.load(str(vae_folder)))
    assert "begun with" in refusal(capsys, "train-upsampler", "--resume", *out, "--init", folders[0])
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="toy").save_pretrained(tmp_path / "other")
    given = [*options, "--out", tmp_path / "more", "--init", folders[0], tmp_path / "other"]
    assert "differ in kind or size" in refusal(capsys, "train-upsampler", *given)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_torn_checkpoint_is_refused(trained, tmp_path, capsys, ending):
    out = shutil.copytree(trained, tmp_path / "out")
    path = out / f"checkpoint.{ending}"
    path.write_bytes(path.read_bytes()[:500])
    assert "nothing to resume" in refusal(capsys, "train-upsampler", "--resume", "--out", out, "--steps", 3)


def test_a_training_is_not_written_over(trained, images, vae_folder, capsys):
    again = ["train-upsampler", "--vae", vae_folder, "--images", images, "--out", trained, *SMALL]
    assert "add --resume" in refusal(capsys, *again)


def test_it_starts_from_another_upsampler(trained, images, vae_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_upsampler, "calibrate", lambda *_: {})
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path, "--init", trained, *SMALL, "--seed", 5]
    assert run("train-upsampler", *options, "--learning-rate", 1e-9) == 0
    stored, again = (LatentUpsampler.from_pretrained(folder).state_dict() for folder in (trained, tmp_path))
    torch.testing.assert_close(stored, again, atol=2e-3, rtol=0)
    assert "_name_or_path" not in json.loads((tmp_path / "config.json").read_text())


def test_it_grows_from_a_smaller_upsampler(trained, images, vae_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_upsampler, "calibrate", lambda *_: {})
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path, "--init", trained, "--size", "large", *SMALL]
    assert run("train-upsampler", *options, "--learning-rate", 1e-9) == 0
    small, large = (LatentUpsampler.from_pretrained(folder) for folder in (trained, tmp_path))
    assert max(large.config.block_out_channels) > max(small.config.block_out_channels)
    z = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(large(z), small(z), atol=2e-2, rtol=0)


def test_one_that_only_doubles_learns_the_other_ratios_and_doubles_as_before(images, vae_folder, tmp_path):
    """Of the published layout, too: two blocks, with norms."""
    torch.manual_seed(0)
    begun = LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="toy").half().float()  # as it is stored
    begun.save_pretrained(tmp_path / "init")
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", *SMALL, "--keep-doubling"]
    assert run("train-upsampler", *options, "--init", tmp_path / "init", "--out", tmp_path / "first") == 0
    assert run("train-upsampler", *options, "--init", tmp_path / "first", "--out", tmp_path / "second") == 0
    first, second = (LatentUpsampler.from_pretrained(tmp_path / name).float() for name in ("first", "second"))
    z = torch.randn(1, 4, 8, 8)
    for model, name in ((first, "first"), (second, "second")):
        assert torch.equal(model(z), begun(z))
        assert set(json.loads((tmp_path / name / "training.json").read_text())["calibrated"]) == {"between"}
    assert not torch.equal(first(z, (12, 12)), second(z, (12, 12)))
    assert run("train-upsampler", "--resume", "--out", tmp_path / "second", "--steps", 3) == 0
    again = LatentUpsampler.from_pretrained(tmp_path / "second").float()
    assert torch.equal(again(z), begun(z))
    assert not torch.equal(again(z, (12, 12)), second(z, (12, 12)))


def test_where_doubling_is_kept_no_crop_is_halved(images, vae_folder, tmp_path):
    """And nothing is learnt of a doubling."""
    training = Training(vae=str(vae_folder), images=str(images), keep_doubling=True, init="another")
    trainer = toy_trainer(images, vae_folder, tmp_path, training)
    trainer._encode(60)
    assert {trainer.pool.draw(trainer.rng, 1)[0].shape[-1] for _ in range(100)} <= set(range(9, 16))
    learnt = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
    assert learnt == {id(p) for p in trainer.plain.upsampler.between.parameters()}


def test_a_configuration_may_tell_more_than_ours_knows(images, vae_folder, tmp_path):
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="toy").save_pretrained(tmp_path / "init")
    path = tmp_path / "init" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "any_ratio": False}))
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", *SMALL]
    assert run("train-upsampler", *options, "--init", tmp_path / "init", "--out", tmp_path / "out") == 0


@pytest.mark.parametrize("kind", ["flux2", "sana", "qwen-image", "tiny"])
def test_it_trains_for_any_kind_of_autoencoder(kind, images, tmp_path):
    """FLUX.2's patches, AutoencoderDC, a video autoencoder, TAESD's files; in bfloat16, too."""
    where = tiny_pair(tmp_path, channels=4) if kind == "tiny" else tmp_path / "vae"
    if kind != "tiny":
        pipelines.build(kind).vae.save_pretrained(where)
    options = ["--images", images, "--out", tmp_path / "out", *SMALL, "--mixed-precision", "bf16"]
    assert run("train-upsampler", "--vae", where, *options, *(["--tiny"] if kind == "tiny" else [])) == 0
    model = LatentUpsampler.from_pretrained(tmp_path / "out")
    assert model.config.in_channels == vaes.load(str(where), is_tiny=kind == "tiny").channels
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("on_gpu", "kind", "count"), [(False, None, 2), (True, None, 5), (False, RoundTripUpsampler, 5)]
)
def test_crops_are_decoded_whole_and_all_by_a_gpu_or_for_a_costly_network(
    on_gpu, kind, count, images, vae_folder, tmp_path
):
    trainer = toy_trainer(images, vae_folder, tmp_path)
    trainer.on_gpu, trainer.plain = on_gpu, kind or trainer.plain
    _, high, pixels = trainer.pool.draw(trainer.rng, 5)
    shown, true = trainer._decoded(high, pixels)
    torch.testing.assert_close(shown, trainer.vae.decode(high)[:count])
    torch.testing.assert_close(true, pixels[:count])


def test_crops_may_be_cut_ahead_in_threads(images, vae_folder):
    pool = pairs.Pool(pairs.Crops(photos.find(images, 64), 0, 4), vaes.load(str(vae_folder)), torch.device("cpu"), 2)
    for count in (3, 5):
        pool.add(count)
    pool.close()
    low, high, pixels = pool.draw(random.Random(0), 8)
    assert 8 <= low.shape[-1] < high.shape[-1] == 16
    assert (len(low), len(high), pixels.shape) == (8, 8, (8, 3, 64, 64))


def test_a_batch_is_of_one_size_and_half_of_all_are_doubled(images, vae_folder):
    """Crops of 64 px, whose smaller ones have sides that are multiples of 4 or of 8."""
    crops = pairs.Crops(photos.find(images, 64), 0, 4)
    pool, rng = pairs.Pool(crops, vaes.load(str(vae_folder)), torch.device("cpu")), random.Random(0)
    pool.add(80)
    sides = [pool.draw(rng, 4)[0].shape[-1] for _ in range(200)]
    assert set(sides) == set(range(8, 16))
    assert 0.3 < sides.count(8) / len(sides) < 0.7
    assert {pairs.Crops(crops.photos, 1, 8)()[1].shape[-1] for _ in range(100)} <= {32, 40, 48, 56}


def test_a_teacher_s_pictures_take_the_place_of_true_ones(images, vae_folder):
    vae, taught = vaes.load(str(vae_folder)), []

    def teach(low: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        assert low.shape[1] == 4
        taught.append(torch.full_like(true, len(taught) / 5))
        return taught[-1]

    pool = pairs.Pool(pairs.Crops(photos.find(images, 64), 0, 4), vae, torch.device("cpu"), teach=teach)
    pool.add(4)
    _, high, pixels = pool.draw(random.Random(0), 1)
    torch.testing.assert_close(high, vae.encode(pixels), atol=2e-2, rtol=0)
    assert any((picture - pixels).abs().max() < 1 / 127 for picture in taught)


def test_an_upsampler_is_taught_by_itself_and_resumes(trained, images, vae_folder, tmp_path, monkeypatch):
    """Its teacher is the one it began as, though it goes on from its own folder."""
    monkeypatch.setattr(teacher, "CROPS", 2)
    begun = []
    monkeypatch.setattr(teacher.Teacher, "of", lambda model, *rest: begun.append((model, rest[-1])) or Still())
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", "--init", trained, "--distill", 0.5]
    assert run("train-upsampler", *options, "--out", tmp_path / "out", *SMALL) == 0
    assert run("train-upsampler", "--resume", "--out", tmp_path / "out", "--steps", 3) == 0
    assert recall(tmp_path / "out").distill == 0.5
    before = LatentUpsampler.from_pretrained(trained).state_dict()
    for model, share in begun:
        assert share == 0.5
        torch.testing.assert_close(dict(model.state_dict()), dict(before))
    assert len(begun) == 2


def test_a_real_teacher_teaches_and_is_not_asked_when_all_is_learnt(
    trained, images, vae_folder, tmp_path, capsys, monkeypatch
):
    """Of all ratios; what has no time left neither looks for it nor trains, and keeps its weights."""
    monkeypatch.setattr(teacher, "CROPS", 2)
    begun = shutil.copytree(trained, tmp_path / "begun")
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", "--init", begun, "--distill", 0.5, *SMALL]
    assert run("train-upsampler", *options, "--out", tmp_path / "out", "--steps", 3) == 0
    assert "what the teacher's pictures lack" in capsys.readouterr().out
    made = LatentUpsampler.from_pretrained(tmp_path / "out").state_dict()
    assert all(w.isfinite().all() for w in made.values())
    shutil.rmtree(begun)
    assert "no upsampler at" in refusal(capsys, "train-upsampler", "--resume", "--out", tmp_path / "out", "--steps", 4)
    assert recall(tmp_path / "out").steps == 3, "what was refused is not kept"
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] == 3
    assert run("train-upsampler", "--resume", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "nothing is left to train: --steps 3 in all" in said
    assert "lack" not in said
    torch.testing.assert_close(dict(LatentUpsampler.from_pretrained(tmp_path / "out").state_dict()), dict(made))


def test_a_teacher_that_only_doubles_is_refused(images, vae_folder, tmp_path, capsys):
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="toy").save_pretrained(tmp_path / "init")
    options = ["--vae", vae_folder, "--images", images, "--key", "toy", "--out", tmp_path / "out", *SMALL]
    assert "--keep-doubling" in refusal(
        capsys, "train-upsampler", *options, "--init", tmp_path / "init", "--distill", 0.5
    )
    assert not list((tmp_path / "out").iterdir())


class Still:
    """Teaches grey."""

    def __call__(self, low: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(true)


def test_what_fails_in_a_thread_is_raised():
    def fail() -> None:
        raise ValueError("8 are needed")

    ahead = pairs.Ahead(fail, 2)
    with pytest.raises(ValueError, match="8 are needed"):
        ahead.take(1)
    ahead.close()


@pytest.mark.parametrize(("where", "what"), [(Trainer, "_update"), (teacher.Teacher, "of")])
def test_for_want_of_memory_a_smaller_batch_is_named(
    trained, images, vae_folder, tmp_path, capsys, monkeypatch, where, what
):
    def full(*args) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path / "out", *SMALL]
    taught = [] if where is Trainer else ["--key", "toy", "--init", trained, "--distill", 0.5]
    with monkeypatch.context() as patch:
        patch.setattr(where, what, full)
        assert "--batch below" in refusal(capsys, "train-upsampler", *options, *taught)
    if where is Trainer:
        assert run("train-upsampler", *options) == 0, "the folder holds nothing yet"


def test_weights_that_are_no_longer_finite_spoil_no_checkpoint(images, vae_folder, tmp_path):
    trainer = toy_trainer(images, vae_folder, tmp_path)
    trainer.start = 0.0
    trainer.save()
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    next(trainer.plain.parameters()).data[:] = torch.nan
    with pytest.raises(ValueError, match="lower --learning-rate"):
        trainer.save()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_training_without_a_step_is_none(images, vae_folder, tmp_path, capsys):
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path / "out", "--minutes", 1e-9]
    assert "give more --minutes" in refusal(capsys, "train-upsampler", *options)


def on_one_batch(trainer: Trainer, batch: tuple[torch.Tensor, ...], *, decoded: bool) -> list[dict]:
    """Its losses before and after forty steps on it."""
    trainer.pool.draw = lambda *_: batch
    before = trainer.losses(*batch, decoded=decoded)
    for _ in range(40):
        trainer._update(0.5)
    return [before, trainer.losses(*batch, decoded=decoded)]


def test_losses_fall_on_one_batch(images, vae_folder, tmp_path):
    trainer = toy_trainer(images, vae_folder, tmp_path)
    before, after = on_one_batch(trainer, trainer.pool.draw(trainer.rng, 4), decoded=True)
    assert set(before) == {"latents", "pixels", "energy", "texture", "spectrum", "colours"} == set(trainer.weights)
    weights = {"pixels": 1.0, "latents": 0.2, "texture": 0.1, "spectrum": 0.3, "colours": 5.0}
    assert weights.items() <= trainer.weights.items()
    trainer.training = replace(trainer.training, texture=0.0, spectrum=0.0)
    assert not {"texture", "spectrum"} & set(trainer.losses(*trainer.pool.draw(trainer.rng, 4), decoded=True))
    assert after["pixels"] < before["pixels"]
    before, after = (sum(trainer.weights[name] * loss for name, loss in found.items()) for found in (before, after))
    assert after < before - 0.1


def test_latents_come_nearer_where_they_alone_count(images, vae_folder, tmp_path):
    trainer = toy_trainer(images, vae_folder, tmp_path)
    trainer.training = replace(trainer.training, pixels_from=1.0)
    trainer.weights["latents"] = 0.0  # which is beside pixels
    before, after = on_one_batch(trainer, trainer.pool.draw(trainer.rng, 4), decoded=False)
    assert set(before) == {"latents"}
    assert after["latents"] < 0.9 * before["latents"]


def test_the_latents_to_learn_have_a_share_of_the_detail():
    whole = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    half = photos.shrink(whole, 8, 8)
    enlarged = torch.nn.functional.interpolate(half, size=16, mode="bicubic", antialias=True).clamp(-1, 1)
    expected = (1 - pairs.DETAIL) * enlarged + pairs.DETAIL * whole
    torch.testing.assert_close(pairs.softened(whole, half), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_train_together(images, vae_folder, tmp_path):
    """They save while they train, end together, and leave one upsampler."""
    code = (
        "import sys; from lssgen.training import train_upsampler, trainer;"
        "train_upsampler.SIDE, trainer.FIRST, trainer.SAVE_SECONDS = 64, 2, 0.2;"
        "from lssgen.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "run.py").write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", tmp_path / "run.py"]
    launch += ["train-upsampler", "--json"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path / "out", "--steps", 60, "--batch", 2]
    done = subprocess.run(
        [str(a) for a in launch + options], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 60


def test_logs_are_tensorboards(images, vae_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("lssgen.training.trainer.EVERY", 1)
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path / "out", *SMALL]
    assert run("train-upsampler", *options, "--log", tmp_path / "log") == 0
    assert list((tmp_path / "log").rglob("events*"))


def test_wrong_channels_and_folders_are_refused(trained, images, tmp_path, capsys):
    torch.manual_seed(0)
    tiny_vae(channels=8).save_pretrained(tmp_path / "eight")
    tiny_pair(tmp_path, channels=4)
    eight, out = ["--vae", tmp_path / "eight", "--images", images], ["--out", tmp_path / "out"]
    assert "is for 4 latent channels; this VAE has 8" in refusal(
        capsys, "train-upsampler", "--resume", "--out", trained, "--vae", tmp_path / "eight"
    )
    assert "4 latent channels" in refusal(capsys, "train-upsampler", *eight, *out, "--init", trained)
    assert "keep_doubling needs init" in refusal(capsys, "train-upsampler", *eight, *out, "--keep-doubling")
    assert "4 latent channels" in refusal(capsys, "eval-upsampler", *eight, "--checkpoint", trained)
    assert "nothing to resume" in refusal(capsys, "train-upsampler", "--resume", "--out", tmp_path / "nowhere")
    assert "--vae and --images" in refusal(capsys, "train-upsampler", *out)
    assert "add --tiny" in refusal(capsys, "train-upsampler", "--vae", tmp_path, "--images", images, *out)
    assert "no folder" in refusal(capsys, "train-upsampler", *eight[:2], "--images", tmp_path / "no", *out)
    assert "no upsampler" in refusal(capsys, "eval-upsampler", *eight, "--checkpoint", tmp_path)
    for ratio, hint in ((1, "above 1"), ("nan", "above 1"), (1.001, "is the least"), (17, "at most 16")):
        assert hint in refusal(capsys, "eval-upsampler", *eight, "--ratios", ratio)
    assert "at least 1 and 0" in refusal(capsys, "eval-upsampler", *eight, "--every", 0)


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--batch", 0], "from 1 to 1024"),
        (["--minutes", -1], "0 or more, such as 20"),
        (["--steps", -1], "0 or more"),
        (["--learning-rate", 2], "such as 0.004"),
        (["--pixels-from", 2], "from 0 to 1"),
        (["--energy", -1], "from 0 to 10,"),
        (["--colours", 101], "from 0 to 100"),
        (["--texture", 11], "texture is 11.0; it must be from 0 to 10,"),
        (["--spectrum", -1], "spectrum is -1.0; it must be from 0 to 10,"),
        (["--contrast", 3], "from 0.5 to 2"),
        (["--distill", 2], "from 0 to 1"),
        (["--distill", 0.5], "needs teacher"),
        (["--size", "huge"], "small, large"),
        (["--seed", -1], "from 0 to"),
        (["--seed", 2**64], "from 0 to"),
        (["--mixed-precision", "int8"], "no, bf16, fp16"),
    ],
)
def test_bad_settings_are_refused(images, vae_folder, tmp_path, capsys, more, hint):
    assert hint in refusal(
        capsys, "train-upsampler", "--vae", vae_folder, "--images", images, "--out", tmp_path, *more
    )  # fmt: skip


def test_nobody_trains_for_hours_to_learn_that_no_token_is_set(images, vae_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    options = ["--vae", vae_folder, "--images", images, "--out", tmp_path, "--push-to-hub", "me/mine"]
    assert "hf auth login" in refusal(capsys, "train-upsampler", *options)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert "'me/mi ne', which cannot be made" in refusal(capsys, "train-upsampler", *options[:-1], "me/mi ne")


def test_the_hub_gets_the_upsampler_without_checkpoints_and_local_names(
    images, vae_folder, tmp_path, capsys, monkeypatch
):
    calls, files = [], {}
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **how: calls.append(how))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda *_, **how: calls.append(how))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_file",
        lambda *_, path_or_fileobj, path_in_repo, repo_id: files.update({path_in_repo: path_or_fileobj.decode()}),
    )
    out = tmp_path / "out"
    options = ["--vae", vae_folder, "--images", images, "--out", out, "--push-to-hub", "me/mine", *SMALL]
    assert run("train-upsampler", *options) == 0
    made, sent = calls
    assert made == {"exist_ok": True}
    assert (sent["repo_id"], sent["folder_path"]) == ("me/mine", out)
    kept = filter_repo_objects(
        sorted(path.name for path in out.iterdir()), allow_patterns=sent["allow_patterns"],
        ignore_patterns=sent["ignore_patterns"],
    )  # fmt: skip
    assert list(kept) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert set(files) == {"training.json"}
    assert str(tmp_path.parent) not in files["training.json"], "no path of this machine"
    told = json.loads(files["training.json"])
    assert (told["training"]["vae"], told["training"]["seed"], told["steps"]) == (vae_folder.name, 0, 2)
    assert not any(path.name in files["training.json"] for path in images.rglob("*.png"))
    for vae, is_tiny, shown in (("/home/me/taef1", True, "taef1"), ("owner/model", False, "owner/model")):
        facts = {"training": {"vae": vae, "tiny": is_tiny}, "steps": 2}
        assert push.without_names(facts) == {"training": {"vae": shown, "tiny": is_tiny}, "steps": 2}

    def fails(*_, **how):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", fails)
    again = refusal(capsys, "train-upsampler", "--resume", "--out", out, "--push-to-hub", "me/mine")
    assert "holds the upsampler" in again
    assert "hf upload me/mine" in again


def test_small_and_broken_pictures_are_left_out_and_counted(tmp_path):
    for k in range(9):
        drawing(k, 96).save(tmp_path / f"{k}.webp")
    drawing(9, 40).save(tmp_path / "small.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    drawing(0, 96).save(tmp_path / "torn.png")
    whole = (tmp_path / "torn.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no picture")
    found = photos.find(tmp_path, 64)
    assert (len(found.paths), found.small, found.broken) == (10, 1, 1)
    crops = pairs.Crops(found, 0, 4)
    for _ in range(80):  # the torn one is found out when it is drawn
        crop, smaller = crops()
        assert crop.shape == (3, 64, 64)
        assert smaller.shape[1:] in {(side, side) for side in range(32, 64, 4)}
    assert found.broken == 2
    with pytest.raises(ValueError, match="0 pictures; 11 too small and 1 broken left out; at least 8"):
        photos.find(tmp_path, 256)
    (tmp_path / "7.webp").unlink()
    (tmp_path / "8.webp").unlink()
    for k in range(4):
        (tmp_path / f"{k}.webp").unlink()
        shutil.copy(tmp_path / "torn.png", tmp_path / f"{k}.png")
    few = pairs.Crops(photos.find(tmp_path, 64), 0, 4)
    with pytest.raises(ValueError, match="6 pictures are broken and 3 are left; 4 are needed"):
        [few() for _ in range(80)]


def test_held_out_pictures_are_whole_and_stay_the_same_as_others_come(tmp_path):
    for k in range(16):
        drawing(k, 72).save(tmp_path / f"{k:02}.png")
    torn = tmp_path / "00.png"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    found, held_out = photos.find(tmp_path, 64).split(6)
    assert ([p.name for p in held_out], found.broken) == (["08.png"], 1)
    assert not {torn, *held_out} & set(found.paths)
    for k in range(16, 64):
        drawing(k, 72).save(tmp_path / f"{k:02}.png")
    more, again = photos.find(tmp_path, 64).split(6, [str(path) for path in held_out])
    assert again == held_out
    assert len(more.paths) == len(more.sizes) == 63


def test_a_torn_picture_does_not_cost_the_training(vae_folder, tmp_path):
    """It was found out by the measuring at the end."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(8):
        drawing(k, 72).save(folder / f"{k}.png")
    torn = folder / "0.png"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    options = ["--vae", vae_folder, "--images", folder, "--out", tmp_path / "out", *SMALL]
    assert run("train-upsampler", *options) == 0
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["pictures"] == {"used": 7, "held_out": 0, "small": 0, "broken": 1}
    assert "held_out" not in facts


def test_what_is_transparent_is_laid_on_a_colour(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (4, 4), (9, 255)).save(tmp_path / "grey.png")
    assert photos.read(tmp_path / "clear.png", (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    assert photos.read(tmp_path / "grey.png").getpixel((0, 0)) == (9, 9, 9)


def test_a_crop_and_its_smaller_one_show_the_same(images):
    """Smaller by area or bicubic, seldom blurred: enlarged it is near the crop, and the same way round."""
    crops = pairs.Crops(photos.find(images, 64), 0, 4)
    for _ in range(10):
        crop, small = crops()
        again = torch.nn.functional.interpolate(small[None], (64, 64), mode="bilinear")[0]
        assert (again - crop).abs().mean() < 0.5 * (again.flip(2) - crop).abs().mean() + 0.02


def test_lines_stay_straight_at_any_ratio(images, monkeypatch):
    """A slope remains one: by area, which takes whole pixels, it bends at ratios that are no whole ones."""
    monkeypatch.setattr(pairs, "BLURRED", 0.0)  # which rounds to whole colours
    slope = torch.linspace(-1.0, 1.0, 64).expand(3, 64, 64)
    crops, bends = pairs.Crops(photos.find(images, 64), 0, 4, plain=0.0), []
    crops._next = lambda: slope
    for _ in range(60):
        small = crops()[1][0, 16]
        bends.append(small[5:-5].diff(n=2).abs().max().item() * len(small))
    assert max(bends) < 0.3, "by area 1.9, a step being 2"


def test_of_some_crops_the_most_detailed_is_kept(tmp_path, monkeypatch):
    for k in range(8):
        Image.new("RGB", (96, 96), (k, 0, 0)).save(tmp_path / f"flat{k}.png")
        drawing(k, 96).save(tmp_path / f"drawn{k}.png")
    crops = pairs.Crops(photos.find(tmp_path, 64), 0, 4, plain=0.0)
    monkeypatch.setattr(pairs, "CHOICE", 10)
    assert all(pairs.detail(crops()[0]) > 0 for _ in range(10))
    monkeypatch.setattr(pairs, "CHOICE", 1)
    assert any(pairs.detail(crops()[0]) == 0 for _ in range(10))


def test_some_crops_have_a_plain_box(images):
    crops = pairs.Crops(photos.find(images, 64), 0, 4, plain=1.0)
    shares = []
    for _ in range(40):
        crop, half = crops()
        colours, counts = crop.flatten(1).unique(dim=1, return_counts=True)
        plain = colours[:, counts.argmax()]
        shares.append(counts.max().item() / 64**2)
        assert half.isfinite().all()
        assert (plain.abs() <= 1).all()
    assert max(shares) == 1.0, "all of it"
    assert 0.2 < sum(shares) / len(shares) < 0.9


def test_evaluation_gives_every_method_at_every_ratio(trained, images, vae_folder, capsys):
    options = ["--vae", vae_folder, "--images", images, "--checkpoint", trained, "--ratios", 1.5, 2, 3]
    assert run("eval-upsampler", *options, "--every", 9, "--limit", 2, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    rows = {(row["method"], row["ratio"]): row for row in result["rows"]}
    methods = ("encode-decode", "enlarged", "bicubic", "nearest", "pixel", str(trained))
    assert set(rows) == {(m, r) for m in methods for r in (1.5, 2.0, 3.0)}
    assert result["pictures"] == 2
    learned = rows[str(trained), 2.0]
    assert learned["parameters"] == sum(p.numel() for p in LatentUpsampler.from_pretrained(trained).parameters())
    assert learned["milliseconds"] > 0
    assert sum(learned["psnr_each"]) / 2 == pytest.approx(learned["psnr"])
    assert len(set(learned["psnr_each"])) == 2
    assert rows["encode-decode", 2.0]["correlation"] > learned["correlation"] > -1
    assert len(learned["colour_shift"]) == 3
    assert learned["plain_shift"] > 0
    assert learned["latents_error"] > 0 == rows["encode-decode", 2.0]["latents_error"]
    assert run("eval-upsampler", *options[:4], "--ratios", 2, "--limit", 1) == 0
    assert "nearest" in capsys.readouterr().out


def test_the_small_picture_is_decoded_and_enlarged(images):
    """By an autoencoder that loses nothing: what is left is what bicubic enlarging does."""
    vae, path = (
        SimpleNamespace(factor=1, multiple=1, encode=lambda x: x, decode=lambda z: z),
        next(images.rglob("*.png")),
    )
    row = next(r for r in eval_upsampler.evaluate(vae, [path], {}, [2], side=64) if r.method == "enlarged")
    true = photos.pixels_of(photos.read(path))[None, :, :64, :64]
    made = resize(photos.shrink(true, 32, 32), 64, 64, "bicubic").clamp(-1, 1)
    assert row.psnr == pytest.approx(measures.psnr(made / 2, true / 2).item(), abs=1e-3)
    assert (row.latents_error, row.milliseconds, row.parameters) == (0, 0, 0)


def test_a_shift_of_plain_colours_is_found():
    """By an autoencoder whose latents are the picture's means: an upsampler that darkens white alone."""
    pool, up = torch.nn.functional.avg_pool2d, torch.nn.functional.interpolate
    vae = SimpleNamespace(
        factor=4, multiple=4, encode=lambda x: pool(x, 4), decode=lambda z: up(z, scale_factor=4.0, mode="nearest")
    )

    def darkened(z: torch.Tensor, height: int, width: int) -> torch.Tensor:
        white = (z == 1).all(1, keepdim=True)
        return up(z - 0.2 * white, (height, width))

    for upsample, shift in ((None, 0.0), (darkened, 25.5)):
        found = eval_upsampler._plain_shift(vae, torch.device("cpu"), upsample, 1.5)
        assert found == pytest.approx(shift, abs=1e-3)


def test_the_decoded_pictures_are_laid_side_by_side(images, vae_folder, tmp_path, capsys):
    """A row for each picture; the first column is the true one."""
    options = ["--vae", vae_folder, "--images", images, "--limit", 2, "--sheet"]
    assert run("eval-upsampler", *options, tmp_path / "new" / "decodes.png", "--ratios", 2, 3) == 0
    sheet = Image.open(tmp_path / "new" / "decodes.png")
    tile, gap, label = decodes.TILE, decodes.GAP, decodes.LABEL
    assert sheet.size == (gap + 6 * (tile + gap), label + gap + 2 * (tile + label + gap))
    first = photos.find(images, 64).paths[0]
    with Image.open(first) as true:  # 288 px; its middle is shown
        assert sheet.getpixel((gap + 5, label + gap + 5)) == true.convert("RGB").getpixel((21, 21))
    assert "must end in" in refusal(capsys, "eval-upsampler", *options, tmp_path / "decodes.tiff")
    (tmp_path / "file").write_text("no folder")
    assert "--sheet is" in refusal(capsys, "eval-upsampler", *options, tmp_path / "file" / "decodes.png")


@pytest.mark.parametrize(("channels", "most"), [(4, 140_000), (16, 560_000), (32, 560_000)])
def test_sizes_keep_their_promise(channels, most):
    """What doubles in the small one, and the whole of either."""
    assert build("small", channels, "", any_ratio=False).num_parameters() <= most
    assert build("small", channels, "").num_parameters() <= 1_200_000
    assert build("large", channels, "").num_parameters() <= 3_000_000


@pytest.mark.slow
def test_two_minutes_on_twenty_pictures_beat_bicubic_latents(images, tmp_path, monkeypatch):
    """In the embedded model's latents, on a picture not learnt from; flipped it comes out the same, nearly."""
    monkeypatch.undo()  # real sizes
    vae, path = vaes.load("assets/embedded"), tmp_path / "held_out.png"
    drawing(99, 512).save(path)
    training = Training(vae="assets/embedded", images=str(images), minutes=2.0)
    facts = train_upsampler.train(training, tmp_path / "out")
    model = eval_upsampler.checkpoint(tmp_path / "out", vae)
    rows = eval_upsampler.evaluate(vae, [path], {"learned": model}, (2.0,), plain=("bicubic",))
    psnr = {row.method: row.psnr for row in rows}
    assert psnr["learned"] > psnr["bicubic"] + 1, (psnr, facts)
    true = photos.pixels_of(photos.read(path))[None]
    with torch.no_grad():
        low = (vae.encode(photos.shrink(x, 256, 256)) for x in (true, true.flip(-1)))
        plain, flipped = (vae.decode(model.upsample(z, 32, 32)).clamp(-1, 1) for z in low)
    assert measures.psnr(flipped.flip(-1) / 2, plain / 2).item() > psnr["learned"]
