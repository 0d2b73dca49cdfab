"""The training scripts end to end on a dozen tiny pictures: every part takes a step, resumes, exports and runs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file

from lssgen.training import (
    autoencoder,
    common,
    data,
    export,
    latents,
    optimiser,
    precision,
    scenes,
    text_encoders,
    tokens,
    transformer,
    upsampler,
)
from tests import emoji

NAME = "diffusion_pytorch_model.safetensors"
LABELS = ("red apple", "cat", "house", "tree")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return emoji.make(tmp_path_factory.mktemp("data"), LABELS)


def test_missing_data_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        data.read_captions(tmp_path)


def test_held_out_labels_are_kept_from_the_autoencoder_and_the_upsampler(tmp_path, monkeypatch):
    root = emoji.make(tmp_path, [f"thing {k}" for k in range(40)])
    pictures = data.read_captions(root)
    held_out = data.held_out_labels(pictures)
    assert len(held_out) == 2
    rastered = []
    monkeypatch.setattr(data, "rasters", lambda data, work, pictures, size, name: rastered.append(pictures))
    autoencoder.Batches(root, tmp_path, seed=0)
    assert len(rastered) == 3
    assert all(p.label not in held_out for pictures in rastered for p in pictures)
    examples = [scenes.Example((k, (k + 1) % 120)) for k in range(120)]
    rows = upsampler.Pairs._seen(root, examples)
    shown = {pictures[i].label for k in rows for i in examples[k].objects}
    assert not shown & held_out
    assert len(rows) > 90
    assert min(rows) >= upsampler.HELD_OUT


@pytest.mark.parametrize("tokens", [64, 256, 1024])
def test_training_shifts_sigmas_as_the_scheduler_does(tokens):
    """Trained for another shift, the sampler would visit noise levels the model hardly saw."""
    scheduler = export.scheduler()
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    u = torch.linspace(0.1, 0.9, 9)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 64) / (1024 - 64)
    scheduler.set_timesteps(sigmas=u.tolist(), mu=mu)
    torch.testing.assert_close(transformer.shifted(u, tokens), scheduler.sigmas[:-1], atol=1e-5, rtol=0)


def test_initialising_takes_what_fits():
    """Same shapes whole; of embeddings the rows that both have; the rest stays."""
    model = torch.nn.ModuleDict({"table": torch.nn.Embedding(5, 2), "head": torch.nn.Linear(2, 3)})
    before = model["head"].weight.detach().clone()
    text_encoders.adopt(model, {"table.weight": torch.full((3, 2), 7.0), "head.weight": torch.ones(3, 4)})
    assert (model["table"].weight[:3] == 7).all()
    assert (model["table"].weight[3:] != 7).all()
    assert torch.equal(model["head"].weight, before)


def test_cell_tokens_predict_their_own_field():
    """Field 9 is row 1, column 1 of the 8 x 8 grid: pixels 8 to 15 both ways."""
    model = text_encoders.TextEncoders(vocabulary=64).eval()
    with torch.no_grad():
        model.cell_head.weight.zero_()
        model.cell_head.bias.copy_(torch.arange(192.0))
        picture = model.picture(model.read(torch.arange(70).view(1, -1)))
    assert picture.shape == (1, 3, 64, 64)
    assert torch.equal(picture[0, :, 8:16, 8:16].flatten(), torch.arange(192.0))


def test_t5_reads_the_cells_before_the_words(folder, tmp_path):
    tokens.save_tokenizers(data.read_captions(folder), tmp_path)
    _, ids = tokens.Tokens(tmp_path)(["flat cat", "a flat red apple"], full=True)
    assert ids.shape == (2, tokens.LENGTH)
    cells = [tokens.Tokens(tmp_path).t5.convert_tokens_to_ids(c) for c in tokens.CELLS]
    assert ids[0, :64].tolist() == cells
    assert tokens.EOS in ids[0, 64:].tolist()
    again = tmp_path / "again"
    tokens.save_tokenizers([], again, init=tmp_path)
    assert tokens.Tokens(again)(["flat cat"])[1].tolist() == tokens.Tokens(tmp_path)(["flat cat"])[1].tolist()


def test_batches_of_scenes_say_what_each_objects_words_should_know(folder, tmp_path):
    """Objects of a scene are asked for one by one, a picture of one object as a whole."""
    pictures = data.read_captions(folder)
    tokens.save_tokenizers(pictures, tmp_path)
    stack = data.rasters(folder, tmp_path, pictures, text_encoders.PICTURE, "small")
    draw = text_encoders.Batches(pictures, stack, tokens.Tokens(tmp_path), seed=0)
    single, batch = draw(scenes=False, count=3), draw(scenes=True, count=16)
    assert single.cells is None
    assert torch.equal(single.alone[:, 0], single.shown)
    objects = batch.words.any(-1).sum(1)
    assert {1, 2, 3} <= set(objects.tolist())
    lone = objects == 1
    assert torch.equal(batch.alone[lone, 0], batch.shown[lone])
    assert not batch.cells[lone].any()
    assert batch.cells[~lone].any(-1).equal(batch.words[~lone].any(-1)), "cells wherever there are words"
    corner = batch.alone[~lone][:, 0, :, 0, 0]
    assert (corner == 1).all(), "alone, an object stands on white"


def test_packing_and_positions_are_the_stock_pipelines():
    z = torch.randn(2, 16, 8, 8)
    assert torch.equal(transformer.pack(z), FluxPipeline._pack_latents(z, 2, 16, 8, 8))
    stock = FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    assert torch.equal(transformer.positions(4), stock)


@pytest.mark.parametrize("count", [16, 64, 256])
@pytest.mark.parametrize("window", [False, True])
def test_kept_tokens_are_distinct_and_as_many_as_asked(count, window):
    for seed in range(5):
        index = transformer.keep(16, count, random.Random(seed), window)
        assert len(set(index.tolist())) == count
        assert index.max() < 256
        rows, columns = index // 16, index % 16
        if window:
            assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == count, "one square"


def test_guidance_moves_the_target_of_noisy_pictures_with_named_objects_only():
    """A model that says 1 for an object, 5 for a background, guided by g, errs as one that says 1 - g errs unguided."""
    bare = ["", "on a teal background"] * 8
    captions = [f"{said} {b}".strip() for said, b in zip(["flat cat", "", "", "a 3d house"] * 4, bare, strict=True)]
    batch, kind = (torch.randn(16, 16, 16, 16), captions, bare), transformer.Kind("256", 256, 64, 16)
    sigma = []

    def tokens(captions: list[str], full: bool) -> tuple[torch.Tensor, torch.Tensor]:
        objects = torch.tensor([bool({"cat", "house"} & set(c.split())) for c in captions])
        return objects, torch.tensor(["teal" in c for c in captions])

    def loss(says: float, guidance: float) -> torch.Tensor:
        def model(x, s, ids, words):
            sigma.append(s)
            return (says * words[0] + 5.0 * words[1]).view(-1, 1, 1).expand(x.shape)

        torch.manual_seed(0)
        return transformer.loss_of(model, batch, kind, tokens, random.Random(0), guidance=guidance)

    plain, guided, less = loss(1.0, 0.0), loss(1.0, 0.4), loss(0.6, 0.0)
    moved = tokens(captions, full=True)[0] & (sigma[0] > transformer.GUIDED_ABOVE)
    assert 0 < moved.sum() < 8, "pictures on both sides of the limit"
    assert torch.equal(guided != plain, moved)
    torch.testing.assert_close(guided[moved], less[moved], atol=1e-5, rtol=0)


def test_captions_left_empty_still_name_the_background(folder, tmp_path, monkeypatch):
    """What guidance takes away must know the background, or its colour is driven out of the autoencoder's range."""
    examples = [scenes.Example((0,)), scenes.Example((0, 1), "teal"), scenes.Example((2,), "night")]
    monkeypatch.setattr(transformer.latents, "load", lambda work, size: (np.zeros((3, 16, 4, 4)), examples))
    np.save(tmp_path / "latents_1024u.npy", np.zeros((3, 16, 4, 4)))
    monkeypatch.setattr(transformer, "DROP", 0.5)
    _, captions, bare = transformer.Batches(folder, tmp_path, seed=0)(transformer.Kind("512", 512, 16, 300))
    assert set(bare) == {"", "on a teal background", "at night"}
    assert all(c.endswith(b) for c, b in zip(captions, bare, strict=True))
    left = [b for c, b in zip(captions, bare, strict=True) if c == b]
    assert set(left) == set(bare)
    assert 100 < len(left) < 200


def test_bfloat16_only_where_it_is_faster():
    """On a processor without the instructions a training step in bfloat16 took a hundred times as long."""
    with precision.autocast():
        out = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
    assert out.dtype == (torch.bfloat16 if precision.bfloat16_pays() else torch.float32)


def test_parameters_with_a_scale_of_their_own_are_in_no_other_group():
    model = torch.nn.ModuleDict({"relative": torch.nn.Embedding(5, 2), "head": torch.nn.Linear(2, 3)})
    matrices, rest, relative = optimiser.parameter_groups(model, scales={"relative": 10.0})
    assert matrices == {"params": [model["head"].weight], "muon": True}
    assert rest == {"params": [model["head"].bias], "scale": 1.0}
    assert relative == {"params": [model["relative"].weight], "scale": 10.0}


def test_heads_fitted_to_an_exported_model_recover_a_linear_map():
    torch.manual_seed(0)
    true, fitted, x = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3), torch.randn(200, 5)
    common.fit_linear(fitted, x, true(x).detach(), ridge=1e-6)
    torch.testing.assert_close(fitted(x), true(x), atol=1e-3, rtol=0)


def test_folding_makes_scaled_latents_standard():
    """The exported autoencoder's latents are (z - mean) / std of the trained one's, and decode to the same picture."""
    torch.manual_seed(0)
    vae = autoencoder.build().eval()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, std = torch.randn(16), torch.rand(16) + 0.5
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        y = vae.decode(z).sample
        folded = export.fold(vae, mean, std)
        w = folded.encode(x).latent_dist.mode()
        torch.testing.assert_close(w, (z - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(folded.decode(w).sample, y, atol=1e-3, rtol=1e-3)


def test_every_part_trains_resumes_exports_and_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "COLOURED", 4)
    monkeypatch.setattr(latents, "SCENES", 4)
    monkeypatch.setattr(latents, "LARGE", (4, 2, 2))
    monkeypatch.setattr(upsampler, "HELD_OUT", 1)
    monkeypatch.setattr(text_encoders, "CODE", 16)
    monkeypatch.setattr(text_encoders, "SAMPLES", 200)
    work, out = tmp_path / "work", tmp_path / "model"

    def train(part, *more: str, into=work):
        part.train(part.arguments(["--data", str(folder), "--work", str(into), *more]))

    train(autoencoder, "--steps", "1")
    train(autoencoder, "--steps", "2", "--resume")
    train(text_encoders, "--steps", "1")
    monkeypatch.setattr("sys.argv", ["latents", "--data", str(folder), "--work", str(work), "--threads", "1"])
    latents.main()
    train(upsampler, "--steps", "1", "--out", str(out / "upsampler"))
    train(transformer, "--steps", "1")
    train(transformer, "--steps", "2", "--resume")
    monkeypatch.setattr("sys.argv", ["export", "--work", str(work), "--out", str(out)])
    export.main()
    pipe = FluxPipeline.from_pretrained(out, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    length = tokens.LENGTH
    image = pipe("flat cat", height=64, width=64, num_inference_steps=1, max_sequence_length=length).images[0]
    assert image.size == (64, 64)
    assert np.isfinite(np.asarray(image, np.float32)).all()
    # and on from the exported weights alone, as a new machine would
    again = tmp_path / "again"
    init = ["--init", str(out)]
    train(text_encoders, *init, "--t5-only", "--steps", "1", into=again)
    monkeypatch.setattr("sys.argv", ["latents", "--data", str(folder), "--work", str(again), "--threads", "1", *init])
    latents.main()
    train(upsampler, *init, "--minutes", "0", into=again)
    train(transformer, *init, "--steps", "1", into=again)
    monkeypatch.setattr("sys.argv", ["export", "--work", str(again), "--init", str(out), "--out", str(tmp_path / "b")])
    export.main()
    configs = [path.read_text() for path in (tmp_path / "b").glob("*/config.json")]
    assert len(configs) == 5
    assert not any("_name_or_path" in text for text in configs), "where a part was loaded from is nobody's business"
    stored, exported = (load_file(f / "upsampler" / NAME) for f in (out, tmp_path / "b"))
    assert all(torch.equal(stored[k], exported[k]) for k in stored), "0 minutes must leave the upsampler as it was"
    stored, exported = (load_file(f / "text_encoder" / "model.safetensors") for f in (out, tmp_path / "b"))
    assert all(torch.equal(stored[k], exported[k]) for k in stored), "--t5-only must leave CLIP as it was"
