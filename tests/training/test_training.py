"""The training scripts on four tiny pictures: captions, one or two optimiser steps of each part, resume, export."""

import csv
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lssgen.training import autoencoder, common, export, latents, text_encoders, transformer, upsampler
from lssgen.training import data as D

LABELS = ("red apple", "blue box", "green tree", "angry face")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data, work) with four pictures of 512 px and no vectors."""
    root = tmp_path_factory.mktemp("training")
    data = root / "data"
    (data / "emoji" / "flat").mkdir(parents=True)
    rows = []
    for k, label in enumerate(LABELS):
        image = Image.new("RGBA", (512, 512))
        ImageDraw.Draw(image).ellipse((40 * k, 60, 400, 450), fill=(60 * k, 200 - 50 * k, 90, 255))
        image.save(data / "emoji" / f"flat/{k}.webp", lossless=True)
        rows.append([f"flat/{k}.webp", "flat", "flat", label, "objects", "one|two", 512])
    with (data / "emoji" / "captions.csv").open("w", newline="") as f:
        csv.writer(f).writerows([["file", "source", "style", "label", "group", "keywords", "size"], *rows])
    zipfile.ZipFile(data / "emoji_svg.zip", "w").close()
    return data, root / "work"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and few pictures."""
    views = tuple(autoencoder.View(256, 64, 64, 2, 1.0) for _ in range(1))
    monkeypatch.setattr(autoencoder, "VIEWS", views)
    for name, n in (("COLOURED", 2), ("SCENES", 2), ("LARGE", 2)):
        monkeypatch.setattr(latents, name, n)
    monkeypatch.setattr(upsampler, "HELD_OUT", 1)
    monkeypatch.setattr(text_encoders, "SAMPLES", 300)
    monkeypatch.setattr(transformer, "SCHEDULE", ((1.01, ((512, 64, 2, 1.0), (1024, 64, 2, 1.0))),))


def arguments(folders: tuple[Path, Path], *extra: str):
    data, work = folders
    fixed = ["--data", str(data), "--work", str(work), "--minutes", "9", "--threads", "1"]
    return common.parser("", 9).parse_args([*fixed, *extra])


def test_captions(folders: tuple[Path, Path]) -> None:
    pictures = D.read_captions(folders[0])
    assert [p.label for p in pictures] == list(LABELS)
    assert D.next_to(pictures[0], pictures[2]) == "a flat red apple next to a flat green tree"
    assert D.on_background("flat blue box", "orange") == "flat blue box on an orange background"
    assert D.caption(pictures[1], random.Random(0), keywords=0.0, article=1.0) == "a flat blue box"


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"captions.csv does not exist .*--data"):
        D.read_captions(tmp_path)


def test_scene_halves_both_pictures() -> None:
    left, right = np.full((8, 8, 4), 10, np.uint8), np.full((8, 8, 4), 255, np.uint8)
    both = D.scene(left, right)
    assert (both[2:6, :4] == 10).all()
    assert (both[2:6, 4:] == 255).all()
    assert not both[:2].any()


def test_composite_over_a_colour() -> None:
    x = D.composite(np.zeros((2, 2, 4), np.uint8), (255, 0, 0))
    assert x[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_shift_is_the_schedulers() -> None:
    """The sigmas trained on are those the exported scheduler samples, 1e-6."""
    scheduler = export.scheduler()
    u = torch.linspace(1, 0.05, 20)
    for tokens, mu in ((64, 0.5), (1024, 1.15)):
        scheduler.set_timesteps(sigmas=u.tolist(), mu=mu)
        assert torch.allclose(scheduler.sigmas[:-1], transformer.shifted(u, tokens), atol=1e-6)


def test_sigmas_stay_above() -> None:
    assert transformer.sigmas(64, 1024, (0.3, 1.0)).min() >= 0.29
    assert 0 < transformer.sigmas(64, 512, (0.0, 1.0)).min() < 0.1


def test_kept_tokens_are_distinct() -> None:
    for count in (64, 128, 256):
        assert len(transformer.keep(16, count, random.Random(count)).unique()) == count


def test_packing_is_the_pipelines() -> None:
    from diffusers import FluxPipeline

    z = torch.randn(2, 16, 8, 8)
    assert torch.equal(transformer.pack(z), FluxPipeline._pack_latents(z, 2, 16, 8, 8))


def test_muon_update_is_near_orthogonal() -> None:
    s = torch.linalg.svdvals(common.orthogonalise(torch.randn(32, 128)))
    assert s.min() > 0.5
    assert s.max() < 1.4


def test_every_part_trains_resumes_and_exports(folders: tuple[Path, Path], small: None, tmp_path: Path) -> None:
    """In the order of the model card; the exported folder makes a picture and is trained on from its weights alone."""
    work = folders[1]
    autoencoder.train(arguments(folders, "--steps", "1"))
    autoencoder.train(arguments(folders, "--steps", "2", "--resume"))
    assert torch.load(work / "autoencoder.pt", weights_only=True)["step"] == 2
    text_encoders.train(arguments(folders, "--steps", "1"))
    wanted = latents.examples(D.read_captions(folders[0]), 0)
    for size in (512, 256, 1024):
        latents.encode(arguments(folders), size, wanted[size], until=float("inf"))
    z = latents.load(work, 512)[0].astype(np.float32)
    assert np.allclose(z.std((0, 2, 3)), 1, atol=0.02)
    upsampler.train(arguments_with_out(folders, work / "up"))
    transformer.train(arguments(folders, "--steps", "1"))
    pipe = export.pipeline_of(work)
    export.save(pipe, work, tmp_path / "model")
    assert max(f.stat().st_size for f in (tmp_path / "model").rglob("*")) < 10e6
    transformer.train(arguments(folders, "--steps", "1", "--init", str(tmp_path / "model")))


def arguments_with_out(folders: tuple[Path, Path], out: Path):
    args = arguments(folders, "--steps", "1")
    args.out = out
    return args
