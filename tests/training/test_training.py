"""The training scripts end to end on a dozen tiny pictures: every part takes a step, resumes, exports and runs."""

from __future__ import annotations

import csv
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from PIL import Image, ImageDraw

from lssgen.training import autoencoder, common, data, export, latents, text_encoders, transformer, upsampler

LABELS = ("red apple", "cat", "house", "tree")
STYLES = {"flat": "noto", "glossy": "fluent_color", "3d": "fluent_3d"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Training data of the documented layout: four labels in three styles, vectors for two of them."""
    root = tmp_path_factory.mktemp("data")
    rows, vectors = [], {}
    for k, label in enumerate(LABELS):
        for style, source in STYLES.items():
            size = 256 if style == "3d" else 512
            image = Image.new("RGBA", (size, size))
            ImageDraw.Draw(image).ellipse((size // 8, size // 8, size * 3 // 4, size * 7 // 8), (60 * k, 90, 200, 255))
            file = f"{source}/{k}.webp"
            (root / "emoji" / source).mkdir(parents=True, exist_ok=True)
            image.save(root / "emoji" / file)
            rows.append([file, source, style, label, "objects", f"{label}|thing", size])
    with (root / "emoji" / "captions.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["file", "source", "style", "label", "group", "keywords", "size"], *rows])
    with zipfile.ZipFile(root / "emoji_svg.zip", "w") as archive:
        for name, text in vectors.items():
            archive.writestr(name, text)
    return root


def test_captions_name_style_label_and_background(folder):
    pictures = data.read_captions(folder)
    draw = data.Examples(pictures, 0)
    example = data.Example(0, None, "orange")
    assert draw.caption(example, keywords=0.0).endswith("flat red apple on an orange background")
    assert draw.caption(data.Example(0, 3), keywords=0.0) == "a flat red apple next to a flat cat"
    pixels = data.composite(data.rgba_of(example, np.zeros((12, 8, 8, 4), np.uint8)), data.background_of(example))
    assert torch.allclose((pixels[:, 0, 0] + 1) * 127.5, torch.tensor([243.0, 146.0, 55.0]), atol=0.01)


def test_missing_data_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        data.read_captions(tmp_path)


@pytest.mark.parametrize("tokens", [64, 256, 1024])
def test_training_shifts_sigmas_as_the_scheduler_does(tokens):
    """Trained for another shift, the sampler would visit noise levels the model hardly saw."""
    scheduler = export.scheduler()
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    u = torch.linspace(0.1, 0.9, 9)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 64) / (1024 - 64)
    scheduler.set_timesteps(sigmas=u.tolist(), mu=mu)
    torch.testing.assert_close(transformer.shifted(u, tokens), scheduler.sigmas[:-1], atol=1e-5, rtol=0)


def test_packing_and_positions_are_the_stock_pipelines():
    z = torch.randn(2, 16, 8, 8)
    assert torch.equal(transformer.pack(z), FluxPipeline._pack_latents(z, 2, 16, 8, 8))
    stock = FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    assert torch.equal(transformer.positions(4), stock)


@pytest.mark.parametrize("count", [16, 64, 256])
def test_kept_tokens_are_distinct_and_as_many_as_asked(count):
    for seed in range(5):
        index = transformer.keep(16, count, random.Random(seed))
        assert len(set(index.tolist())) == count
        assert index.max() < 256


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


@pytest.mark.slow
def test_every_part_trains_resumes_exports_and_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "COLOURED", 4)
    monkeypatch.setattr(latents, "SCENES", 4)
    monkeypatch.setattr(upsampler, "HELD_OUT", 1)
    monkeypatch.setattr(text_encoders, "CODE", 16)
    work, out = tmp_path / "work", tmp_path / "model"

    def arguments(*more: str):
        return common.parser("", 5).parse_args(["--data", str(folder), "--work", str(work), *more])

    autoencoder.train(arguments("--steps", "1"))
    autoencoder.train(arguments("--steps", "2", "--resume"))
    text_encoders.train(arguments("--steps", "1"))
    monkeypatch.setattr("sys.argv", ["latents", "--data", str(folder), "--work", str(work), "--threads", "1"])
    latents.main()
    args = arguments("--steps", "1")
    args.out = out / "upsampler"
    upsampler.train(args)
    transformer.train(arguments("--steps", "1"))
    transformer.train(arguments("--steps", "2", "--resume"))
    monkeypatch.setattr("sys.argv", ["export", "--work", str(work), "--out", str(out)])
    export.main()
    pipe = FluxPipeline.from_pretrained(out, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("flat cat", height=64, width=64, num_inference_steps=1, max_sequence_length=32).images[0]
    assert image.size == (64, 64)
    assert np.isfinite(np.asarray(image, np.float32)).all()
    # and on from the exported weights alone, as a new machine would
    again = tmp_path / "again"
    monkeypatch.setattr(
        "sys.argv",
        ["latents", "--data", str(folder), "--work", str(again), "--threads", "1", "--init", str(out)],
    )
    latents.main()
    args = common.parser("", 5).parse_args(
        ["--data", str(folder), "--work", str(again), "--init", str(out), "--steps", "1"]
    )
    args.out = None
    upsampler.train(args)
    transformer.train(args)
    monkeypatch.setattr("sys.argv", ["export", "--work", str(again), "--init", str(out), "--out", str(tmp_path / "b")])
    export.main()
    assert (tmp_path / "b" / "model_index.json").is_file()
