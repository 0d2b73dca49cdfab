"""Which latent space a VAE's configuration tells of, and the upsamplers that this repository brings."""

from __future__ import annotations

import json
import math
import shutil
from statistics import fmean, stdev

import pytest
import torch

from lssgen.families import folders, known
from lssgen.measured import FILE
from lssgen.upsampler import LatentUpsampler, load_upsampler

KL = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}
SHIPPED = sorted(path.parent.name for path in (known.ASSETS / "upsamplers").glob("*/config.json"))


@pytest.fixture
def bare(tiny_folder, tmp_path):
    """A model without an upsampler of its own, of the latent space called tiny."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.rmtree(folder / "upsampler")
    own = json.loads((folder / "lssgen.json").read_text())
    (folder / "lssgen.json").write_text(json.dumps({**own, "vae": "tiny"}))
    return folder


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**KL, "latent_channels": 4, "scaling_factor": 0.18215}, "sd1"),
        ({**KL, "latent_channels": 4, "scaling_factor": 0.13025}, "sdxl"),
        ({**KL, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}, "sd3"),
        ({**KL, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}, "flux1"),
        ({"_class_name": "AutoencoderKLFlux2", "latent_channels": 32}, "flux2"),
        ({**KL, "latent_channels": 4, "scaling_factor": 0.5, "latents_mean": [0.0] * 4}, ""),
        ({**KL, "block_out_channels": [8, 8], "latent_channels": 4, "scaling_factor": 0.18215}, ""),
        ({}, ""),
    ],
)
def test_a_latent_space_is_known_by_its_vae(config, key):
    assert known.space_of(config) == key


def test_a_model_takes_the_shipped_upsampler_of_its_vae(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "ASSETS", tmp_path)
    model = str(bare)
    assert folders.upsampler_folder(model) is None
    shipped = tmp_path / "upsamplers" / "tiny"
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2, vae="tiny").save_pretrained(shipped)
    assert folders.upsampler_folder(model) == shipped
    large = tmp_path / "upsamplers" / "tiny-large"
    LatentUpsampler(4, 4, (16, 8), norm_num_groups=2, vae="tiny").save_pretrained(large)
    assert folders.upsampler_folder(model) == large
    own = bare / "upsampler"
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2).save_pretrained(own)
    assert folders.upsampler_folder(model) == own, "its own goes before"


def test_a_shipped_upsampler_of_other_channels_is_left_alone(bare, tmp_path, monkeypatch):
    """A folder may bear a known model's name and be something else."""
    monkeypatch.setattr(known, "ASSETS", tmp_path)
    LatentUpsampler(8, 8, (8, 4), norm_num_groups=2, vae="tiny").save_pretrained(tmp_path / "upsamplers" / "tiny")
    assert folders.upsampler_folder(str(bare)) is None


@pytest.mark.parametrize("key", ["", "..", "../embedded", "nothing"])
def test_keys_that_are_no_folder_have_none(key):
    assert known.shipped_upsampler(key) is None


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_upsampler_is_small_and_of_its_space(name):
    key, large = name.removesuffix("-large"), name.endswith("-large")
    model = load_upsampler(known.ASSETS / "upsamplers" / name)
    channels = {"sd1": 4, "sdxl": 4, "flux2": 32}.get(key, 16)
    assert (model.config.vae, model.config.in_channels) == (key, channels)
    if isinstance(model, LatentUpsampler):
        between = sum(p.numel() for p in model.upsampler.between.parameters())
        most = 1_500_000 if large else 140_000 if channels == 4 else 560_000
        assert model.num_parameters() - between <= most, "those that double"
    assert model.num_parameters() <= (3_000_000 if large else 400_000 if channels == 4 else 1_200_000)
    z = torch.randn(1, channels, 6, 8, generator=torch.Generator().manual_seed(0))
    for size in ((12, 16), (9, 13)):
        made = model.upsample(z, *size)
        assert made.shape == (1, channels, *size)
        assert made.isfinite().all()
    assert (known.ASSETS / "upsamplers" / name / "README.md").is_file()
    assert known.shipped_upsampler(key) == known.ASSETS / "upsamplers" / f"{key}-large"


@pytest.mark.parametrize("name", SHIPPED)
def test_cards_and_readme_say_what_was_measured(name):
    folder, key = known.ASSETS / "upsamplers" / name, name.removesuffix("-large")
    parts = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert [(part["vae"], part["pictures"]) for part in parts] == [(key, 24), (key, 6)]
    found = {(row["method"], row["ratio"]): row for part in parts for row in part["rows"]}
    own, plain = f"assets/upsamplers/{name}", ("bicubic", "nearest", "pixel")

    def cells(digits: int, *wanted: tuple[str, float]) -> str:
        rows = [found[one] for one in wanted]
        return " | ".join(f"{row['psnr']:.{digits}f} ({row['energy_ratio']:.2f})" for row in rows) + " |"

    card, readme = (folder / "README.md").read_text(), (known.ASSETS.parent / "README.md").read_text()
    large = name.endswith("-large")
    for row in (found[method, 2.0] for method in ("encode-decode", "enlarged", *plain, own)):
        assert f"| {card_row(row)} |\n" in card
    for ratio in (1.25, 1.5, 1.75, 3.0, 4.0):
        assert f"| {ratio:g} | {cells(2, *((method, ratio) for method in (own, *plain)))}\n" in card
    double, between, trip = (found[one]["milliseconds"] for one in ((own, 2.0), (own, 1.5), ("pixel", 2.0)))
    times = f"256 to 512 px took {double:.0f} ms, one for 344 to 512 px {between:.0f} ms, the pixel round trip's "
    assert f"{times}decode and encode by TAESD {trip / 1000:.1f} s (medians" in " ".join(card.split())
    if large:
        assert f" | {large_row(found, own)} |\n" in readme
    else:
        row = " | ".join(told(found[method, 2.0]) for method in (own, "bicubic", "pixel", "encode-decode"))
        assert f" | {row} |\n" in readme
    others = [(method, ratio) for ratio in (1.25, 1.5, 1.75) for method in (own, "pixel")]
    assert f" | {cells(1, *others)}\n" in readme


def card_row(row: dict) -> str:
    """All that was measured of a method."""
    values = [f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", f"{row['spectrum_error']:.1f}", f"{row['carried_error']:.1f}"]
    values += [f"{row['energy_ratio']:.2f}", signless(row["correlation"])]
    values += [" ".join(f"{value:+.1f}" for value in row["colour_shift"]), f"{row['plain_shift']:.0f}"]
    return " | ".join([*values, "" if row["method"] == "enlarged" else f"{row['latents_error']:.2f}"])


def large_row(found: dict[tuple[str, float], dict], own: str) -> str:
    """PSNR, energy and correlation at x2; how far it is above the pixel round trip, with the standard error."""
    gains = [a - b for a, b in zip(*(found[method, 2.0]["psnr_each"] for method in (own, "pixel")), strict=True)]
    methods = (found[method, 2.0] for method in (own, "pixel", "bicubic", "enlarged", "encode-decode"))
    first, *rest = (told(method) for method in methods)
    return " | ".join([first, f"{fmean(gains):+.2f} ± {stdev(gains) / math.sqrt(len(gains)):.2f}", *rest])


def told(row: dict) -> str:
    """PSNR, energy and correlation."""
    return f"{row['psnr']:.2f} ({row['energy_ratio']:.2f}, {signless(row['correlation'])})"


def signless(value: float) -> str:
    """Nothing is neither -0.00 nor +0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def test_the_table_tells_which_models_have_one():
    rows = {row.to_dict()["vae"]: row.to_dict()["upsampler"] for row in known.KNOWN.values()}
    assert {key for key, upsampler in rows.items() if upsampler} == set(SHIPPED) & set(rows)
    json.dumps(rows)
