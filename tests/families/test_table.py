"""Finding models, and refusing what is missing, broken or foreign."""

from __future__ import annotations

import json
import shutil

import pytest

from lssgen.families import folders
from lssgen.families.load import load
from lssgen.families.placement import placement
from lssgen.families.table import ModelError


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_missing_model_names_what_would_work(tmp_path):
    with pytest.raises(ModelError, match="use 'embedded', a diffusers folder or a hub id"):
        folders.resolve(str(tmp_path / "nothing"))


def test_missing_assets_name_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "ASSETS", tmp_path)
    with pytest.raises(ModelError, match="restore assets/"):
        folders.resolve("embedded")


def test_a_foreign_pipeline_is_refused(folder):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelError, match=r"KandinskyPipeline.*FluxPipeline"):
        folders.resolve(str(folder))


@pytest.mark.parametrize(
    "name",
    ["transformer/diffusion_pytorch_model.safetensors", "vae/config.json", "upsampler/config.json", "lssgen.json"],
)
def test_a_broken_file_is_one_clear_error(folder, name):
    (folder / name).write_bytes(b"broken")
    with pytest.raises(ModelError, match=str(folder)) as caught:
        load(str(folder), placement("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vae/config.json", {}),
        ("transformer/config.json", {}),
        ("scheduler/scheduler_config.json", {}),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchHeunDiscreteScheduler"}),
        ("model_index.json", []),
        ("lssgen.json", {"base_side": "x"}),
        ("lssgen.json", {"max_sequence_length": 0}),
        ("lssgen.json", []),
    ],
)
def test_valid_json_that_says_too_little_is_one_clear_error(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        folders.source(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-here/model", "\0", ""])
def test_absurd_paths_are_one_clear_error(path):
    with pytest.raises(ModelError) as caught:
        folders.resolve(path)
    assert len(str(caught.value)) < 600


def test_an_upsampler_of_another_vae_is_refused(folder):
    from lssgen.upsampler import LatentUpsampler

    LatentUpsampler(8, 8, (8, 4), norm_num_groups=2).save_pretrained(folder / "upsampler")
    with pytest.raises(ModelError, match="8 latent channels; this model's VAE has 4"):
        load(str(folder), placement("cpu"))


def test_unknown_settings_are_refused(folder):
    (folder / "lssgen.json").write_text(json.dumps({"stepz": 3}))
    with pytest.raises(ModelError, match="stepz"):
        folders.settings(str(folder))


def test_guidance_is_none_where_the_transformer_has_no_embedding_for_it(folder):
    assert folders.settings(str(folder)).guidance_scale is None
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "guidance_embeds": True}))
    assert folders.settings(str(folder)).guidance_scale == 3.5
