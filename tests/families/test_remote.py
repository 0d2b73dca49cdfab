"""Models on the hub, from a server on this machine: the real client, the real cache, no network."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from lssgen.engine import Engine
from lssgen.events import ArmFinished
from lssgen.families import folders, remote
from lssgen.families.known import KNOWN, known
from lssgen.families.load import load
from lssgen.families.placement import parameters_of, placement
from lssgen.families.remote import Remote, chosen, missing, named, variant_of, weights
from lssgen.families.table import FAMILIES, ModelError
from lssgen.request import GenerationRequest
from tests.hub import SHA, Served, hub_of

REPO = "someone/tiny"
REQUEST = GenerationRequest(prompt="a red apple", height=128, width=128, start=64, steps=4)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """A hub cache of its own, no token, the hub switched on."""
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def served(tiny_folder, monkeypatch):
    with hub_of(Served()) as hub:
        hub.repos[REPO] = tiny_folder
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("someone/tiny", Remote("someone/tiny")),
        ("someone/tiny@v1.0", Remote("someone/tiny", "v1.0")),
        ("stabilityai/sdxl-turbo", Remote("stabilityai/sdxl-turbo", known("stabilityai/sdxl-turbo").revision)),
        ("stabilityai/sdxl-turbo@main", Remote("stabilityai/sdxl-turbo", "main")),
        ("embedded", None),
        ("/models/tiny", None),
        ("./models/tiny", None),
        ("~/tiny", None),
        ("a/b/c", None),
        ("someone/ti ny", None),
    ],
)
def test_what_is_a_hub_id(model, expected):
    assert named(model) == expected


def test_a_folder_here_goes_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert named("someone/tiny") is None


REPOSITORY = """
model_index.json README.md sd_xl_base_1.0.safetensors scheduler/scheduler_config.json
tokenizer/vocab.json tokenizer/merges.txt
unet/config.json unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.bin unet/diffusion_flax_model.msgpack unet/model.onnx
unet/diffusion_pytorch_model.non_ema.safetensors
text/config.json text/model-00001-of-00002.safetensors text/model-00002-of-00002.safetensors
text/model.safetensors.index.json text/model.fp16.safetensors text/model.safetensors.index.fp16.json
text/pytorch_model.bin.index.json
vae/config.json vae/diffusion_pytorch_model.safetensors vae_1_0/diffusion_pytorch_model.safetensors
"""
FILES = dict.fromkeys(REPOSITORY.split(), 1)
PARTS = ("scheduler", "tokenizer", "unet", "text", "vae")
ALWAYS = {
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "unet/config.json", "text/config.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip


def test_half_precision_takes_the_smaller_files_where_there_are_any():
    assert set(chosen(FILES, PARTS, ("bf16", "fp16"))) == ALWAYS | {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text/model.fp16.safetensors",
        "text/model.safetensors.index.fp16.json",
    }


def test_full_precision_takes_the_plain_files():
    assert set(chosen(FILES, PARTS, ())) == ALWAYS | {
        "unet/diffusion_pytorch_model.safetensors",
        "text/model-00001-of-00002.safetensors",
        "text/model-00002-of-00002.safetensors",
        "text/model.safetensors.index.json",
    }


def test_pickles_are_never_taken():
    files = {"model_index.json": 1, "unet/config.json": 1, "unet/diffusion_pytorch_model.bin": 1}
    with pytest.raises(ModelError, match="unet has no safetensors weights"):
        chosen(files, ("unet",), ("fp16",))


def test_one_variant_is_taken_of_two_and_old_names_are_not_known():
    names = ["model.fp16.safetensors", "model.bf16.safetensors", "model.safetensors"]
    files = {"model_index.json": 1, **{f"unet/{name}": 1 for name in names}}
    assert chosen(files, ("unet",), ("bf16", "fp16"))[1:] == ["unet/model.bf16.safetensors"]
    assert chosen(files, ("unet",), ("fp16", "bf16"))[1:] == ["unet/model.fp16.safetensors"]
    assert chosen(files, ("unet",), ())[1:] == ["unet/model.safetensors"]
    old = {"model_index.json": 1, "unet/model-00001-of-00002.fp16.safetensors": 1, "unet/model.safetensors": 1}
    assert chosen(old, ("unet",), ("fp16",))[1:] == ["unet/model.safetensors"]


def test_a_hub_model_is_planned_without_weights_run_and_kept(served, tiny_folder):
    engine = Engine(REPO, "cpu")
    assert engine.plan(REQUEST).stages
    assert served.weights_asked() == []
    said: list[float] = []
    engine.fetch(lambda share, text: said.append(share))
    assert said == sorted(said)
    assert said[-1] == 1.0
    assert served.weights_asked()
    served.repos.clear()  # from here on the hub has nothing
    (arm,) = [e for e in Engine(REPO, "cpu").generate(REQUEST) if isinstance(e, ArmFinished)]
    (same,) = [e for e in Engine(str(tiny_folder), "cpu").generate(REQUEST) if isinstance(e, ArmFinished)]
    assert arm.images[0].tobytes() == same.images[0].tobytes()


def test_a_revision_can_be_pinned(served):
    assert remote.configuration(Remote(REPO, SHA)).name == SHA
    with pytest.raises(ModelError, match=r"no revision 'v9'; leave it out"):
        Engine(f"{REPO}@v9")


def test_a_download_that_was_broken_off_is_gone_on_with(served):
    class Enough(Exception):
        pass

    def stop(share: float, text: str) -> None:
        raise Enough

    with pytest.raises(Enough):
        weights(Remote(REPO), (), stop)
    folder = weights(Remote(REPO), ())
    assert missing(folder) == []
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert missing(folder) == ["vae"]
    assert missing(weights(Remote(REPO), ())) == []
    for path in (folder / "tokenizer").iterdir():
        if path.name not in remote.ABOUT_TOKENS:
            path.unlink()
    assert missing(folder) == ["tokenizer"], "words without which nothing loads"


def test_a_missing_shard_is_noticed(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shard = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(shard)
    shard.unlink()
    index = {"weight_map": {}}
    for k, (name, tensor) in enumerate(tensors.items()):
        file = f"diffusion_pytorch_model-0000{k % 2 + 1}-of-00002.safetensors"
        index["weight_map"][name] = file
        if k < 2:
            save_file({name: tensor}, folder / "transformer" / file)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert missing(folder) == []
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert missing(folder) == ["transformer"]


def test_the_variant_is_read_off_the_files(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    assert variant_of(folder, ("fp16",)) is None
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert variant_of(folder, ("bf16", "fp16")) == "fp16"
    assert variant_of(folder, ()) == "fp16", "there is nothing else of the VAE"
    assert parameters_of(folder, ())["vae"] > 0
    assert load(str(folder), placement("cpu")).adapter.pipe.vae.dtype == torch.float32


def test_a_decoder_for_previews_is_fetched_once(served, tmp_path):
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(
        tmp_path / "taesd"
    )
    served.repos["madebyollin/taesd"] = tmp_path / "taesd"
    with pytest.raises(ModelError, match="not in the cache"):
        remote.decoder("madebyollin/taesd", offline=True)
    folder = remote.decoder("madebyollin/taesd")
    served.repos.clear()
    assert remote.decoder("madebyollin/taesd") == folder == remote.decoder("madebyollin/taesd", offline=True)
    assert AutoencoderTiny.from_pretrained(folder).config.latent_channels == 4


def test_gated_models_say_how_to_get_in(served, monkeypatch):
    served.gated.add(REPO)
    with pytest.raises(ModelError, match=r"gated and no token is set: accept its licence at .*/someone/tiny, then"):
        Engine(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    with pytest.raises(ModelError, match="your account has no access yet"):
        Engine(REPO)


def test_an_unknown_name_is_told(served):
    with pytest.raises(ModelError, match="no folder 'no/such' here and no such model on the hub"):
        Engine("no/such")


def test_a_repository_that_is_no_pipeline_is_told(served, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "lora.safetensors").write_bytes(b"x")
    served.repos["some/lora"] = tmp_path / "lora"
    with pytest.raises(ModelError, match="no diffusers pipeline"):
        Engine("some/lora")


def test_no_network_is_told_at_once(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"not on this machine and could not be fetched.*use 'embedded' or a folder"):
        Engine(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        Engine(REPO)


def test_a_full_disk_is_told_before_the_download(served, monkeypatch):
    engine = Engine(REPO, "cpu")
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"GB more on disk and .* has 0\.0 GB free; make room, or set HF_HOME"):
        engine.fetch()
    assert served.weights_asked() == []


def test_known_models_belong_to_families_and_their_settings_hold():
    for row in KNOWN.values():
        settings = FAMILIES[row.family].settings
        assert replace(settings, **(row.settings or {}))
        assert row.revision is None or len(row.revision) == 40
        assert row.memory_gb("float32") == 2 * row.memory_gb("bfloat16")
        assert named(row.repo) == Remote(row.repo, row.revision)


def test_a_folder_of_a_known_name_gets_its_settings(tiny_folder, tmp_path):
    """FLUX.1-schnell once ran FLUX.1-dev's 28 steps."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "FLUX.1-schnell"))
    (folder / "lssgen.json").unlink()
    its = folders.settings(str(folder))
    assert (its.steps, its.max_sequence_length, its.licence) == (4, 256, "Apache 2.0")
    assert placement("cpu").offload == "none"
