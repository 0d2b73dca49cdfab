"""Autoencoders of every kind behind one contract, from folders, pipelines, the hub and TAESD's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

from lssgen.families.table import ModelError
from lssgen.training import tiny, vaes
from tests.families import tiny as pipelines
from tests.hub import Served, hub_of

WIDTH = 8


def tiny_pair(
    folder: Path, name: str = "toy", channels: int = 4, *, pooled: bool = False, counted: bool = True
) -> Path:
    """Random TAESD files; `counted`: the decoder's keys count its clamp."""
    torch.manual_seed(0)
    model = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4, decoder_block_out_channels=(WIDTH,) * 4, latent_channels=channels
    )
    for part, layers, deepest in (("encoder", model.encoder.layers, 11), ("decoder", model.decoder.layers, 2)):
        if pooled:
            layers[deepest] = tiny.PooledBlock(WIDTH, 4 * WIDTH)
        shift = int(part == "decoder" and counted)
        state = {f"{int(k.split('.')[0]) + shift}.{k.partition('.')[2]}": v for k, v in layers.state_dict().items()}
        save_file(state, folder / f"{name}_{part}.safetensors")
    return folder / name


@pytest.mark.parametrize("pooled", [False, True])
def test_taesds_files_are_read_however_their_keys_are_counted(tmp_path, pooled):
    a = tiny.load(tiny_pair(tmp_path, "a", pooled=pooled))
    b = tiny.load(tiny_pair(tmp_path, "b", pooled=pooled, counted=False))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = a.encode(x).latents
        assert z.shape == (1, 4, 4, 4)
        assert torch.equal(z, b.encode(x).latents)
        assert torch.equal(a.decode(z).sample, b.decode(z).sample)
    assert isinstance(a.encoder.layers[11], tiny.PooledBlock) is pooled


def test_the_layers_are_those_of_the_files(tmp_path):
    """Pictures go in as [0, 1], the first layer is a convolution."""
    model, state = tiny.load(tiny_pair(tmp_path)), load_file(tmp_path / "toy_encoder.safetensors")
    x = torch.rand(1, 3, 16, 16)
    first = torch.nn.functional.conv2d(x, state["0.weight"], state["0.bias"], padding=1)
    torch.testing.assert_close(model.encoder.layers[0](x), first)
    seen = []
    model.encoder.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.encode(x * 2 - 1)
    torch.testing.assert_close(seen[0], x)


def test_files_that_are_none_of_taesds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="with --tiny, name a pair"):
        tiny.load(tmp_path / "toy")
    pair = tiny_pair(tmp_path)
    save_file({"1.weight": torch.zeros(3)}, tmp_path / "toy_encoder.safetensors")
    with pytest.raises(ValueError, match="not laid out as TAESD's"):
        tiny.load(pair)
    (tmp_path / "toy_encoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no readable safetensors"):
        tiny.load(pair)


@pytest.mark.parametrize("family", ["flux", "flux2", "sd3", "sdxl", "sana", "qwen-image"])
def test_scaled_latents_are_those_the_adapter_sees(family, tmp_path):
    """FLUX.2's batch norm over patches and Qwen-Image's statistics included."""
    from PIL import Image

    from lssgen.families.table import FAMILIES

    pipe = pipelines.build(family)
    adapter = FAMILIES[family].adapter_class()(pipe, pipelines.LENGTH)
    pipe.vae.save_pretrained(tmp_path)
    vae = vaes.load(str(tmp_path))
    side = 8 * vae.multiple
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mine = vae.encode(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
    theirs = adapter.encode_images([Image.fromarray(pixels.numpy())])
    torch.testing.assert_close(mine, theirs.float(), atol=1e-5, rtol=1e-4)
    assert (vae.channels, vae.factor) == (adapter.space.channels, adapter.space.factor)
    image = adapter.decode(theirs)[0]
    ours = (vae.decode(mine)[0].clamp(-1, 1) + 1) * 127.5
    shown = torch.tensor(list(image.getdata()), dtype=torch.float32).view(side, side, 3).permute(2, 0, 1)
    assert (ours - shown).abs().max() < 1.01


def test_a_pipelines_folder_names_its_latents(tiny_folder, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    assert vaes.load(str(folder)).name == ""
    (folder / "lssgen.json").write_text(json.dumps({"vae": "toy"}))
    assert vaes.load(str(folder)).name == "toy"
    assert vaes.load(str(folder), key="mine").name == "mine"
    assert vaes.load(str(folder.rename(tmp_path / "FLUX.1-dev") / "vae")).name == ""


def test_only_autoencoders_are_loaded(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="holds a FluxTransformer2DModel"):
        vaes.load(str(tiny_folder / "transformer"))
    with pytest.raises(ValueError, match="no autoencoder at"):
        vaes.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="cannot be loaded"):
        vaes.load(str(tmp_path))


def test_latents_of_another_size_than_told_are_refused(tmp_path):
    """Such as those of kinds with patches of their own."""
    from diffusers import AutoencoderKLWan, AutoencoderOobleck

    torch.manual_seed(0)
    patched = {"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False]}
    patched |= {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "in_channels": 12, "out_channels": 12}
    AutoencoderKLWan(**patched, patch_size=2).save_pretrained(tmp_path / "patched")
    with pytest.raises(ValueError, match=r"AutoencoderKLWan at .*of no kind that can be used here"):
        vaes.load(str(tmp_path / "patched"))
    audio = {"encoder_hidden_size": 4, "downsampling_ratios": [2], "decoder_channels": 4, "decoder_input_channels": 4}
    AutoencoderOobleck(**audio, channel_multiples=[1]).save_pretrained(tmp_path / "audio")
    with pytest.raises(ValueError, match=r"AutoencoderOobleck at .*of no kind that can be used here"):
        vaes.load(str(tmp_path / "audio"))


@pytest.mark.parametrize("inside", ["", "vae"])
def test_the_hub_gives_an_autoencoder_and_no_more(inside, tmp_path, monkeypatch):
    folder = tmp_path / "repo"
    pipelines.tiny_vae().save_pretrained(folder / inside)
    (folder / "unet").mkdir()
    (folder / "unet" / "model.safetensors").write_bytes(b"large")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_of(Served()) as hub:
        hub.repos["me/mine"] = folder
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert vaes.load("me/mine").channels == 4
        assert len(hub.weights_asked()) == 1
        hub.repos["me/none"] = folder / "unet"
        with pytest.raises(ModelError, match="has no autoencoder"):
            vaes.load("me/none")
    assert vaes.load("me/mine").channels == 4, "from the cache"


def test_gradients_reach_the_latents_and_nothing_else(tmp_path):
    pipelines.tiny_vae().save_pretrained(tmp_path)
    vae = vaes.load(str(tmp_path))
    z = torch.randn(1, 4, 4, 4, requires_grad=True)
    vae.decode(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert isinstance(vae.network, AutoencoderKL)
    assert not any(p.requires_grad for p in vae.network.parameters())


def test_a_latent_space_is_known_by_the_configuration_too(tmp_path, monkeypatch):
    """A fine-tuned model keeps its VAE, and the upsamplers for it."""
    pipelines.tiny_vae().save_pretrained(tmp_path / "mine" / "vae")
    assert vaes.load(str(tmp_path / "mine")).name == ""
    monkeypatch.setattr(vaes, "space_of", lambda config: f"space of {config['latent_channels']}")
    assert vaes.load(str(tmp_path / "mine")).name == "space of 4"
    assert vaes.load(str(tmp_path / "mine"), key="own").name == "own"
