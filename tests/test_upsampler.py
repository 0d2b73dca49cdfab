"""LatentUpsampler: sizes, parameter counts, checkpoint layout, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lssgen.upsampler import LatentUpsampler


@pytest.mark.parametrize(("channels", "widths", "parameters"), [(16, (128, 64), 557_648), (4, (64, 32), 136_356)])
def test_parameter_counts_of_the_paper(channels, widths, parameters):
    model = LatentUpsampler(channels, channels, widths)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_doubles_and_resizes():
    model = LatentUpsampler(4, 4, (64, 32)).eval()
    z = torch.randn(2, 4, 6, 8)
    assert model(z).shape == (2, 4, 12, 16)
    assert torch.equal(model.upsample(z, 12, 16), model(z).detach())
    assert model.upsample(z, 8, 11).shape == (2, 4, 8, 11)


def test_save_and_load_is_the_identity(tmp_path):
    model = LatentUpsampler(4, 4, (64, 32), vae="tiny").eval()
    model.save_pretrained(tmp_path)
    loaded = LatentUpsampler.from_pretrained(tmp_path).eval()
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(model(z), loaded(z))
    assert loaded.config.vae == "tiny"
    assert "upsampler.up_blocks.1.skip_proj.weight" in loaded.state_dict()
    assert "upsampler.up_blocks.0.skip_proj.weight" not in loaded.state_dict()


def test_the_published_layout_is_read(tmp_path):
    """A checkpoint folder as the reference implementation writes it: its own class name, no `vae`."""
    shapes = {
        "conv_in": (8, 4, 3, 3),
        "up_blocks.0.norm1": (8,),
        "up_blocks.0.conv1": (8, 8, 4, 4),
        "up_blocks.0.norm2": (8,),
        "up_blocks.0.conv2": (8, 8, 3, 3),
        "up_blocks.1.norm1": (8,),
        "up_blocks.1.conv1": (4, 8, 3, 3),
        "up_blocks.1.norm2": (4,),
        "up_blocks.1.conv2": (4, 4, 3, 3),
        "up_blocks.1.skip_proj": (4, 8, 1, 1),
        "norm_out": (4,),
        "conv_out": (4, 4, 3, 3),
    }
    bias = {"up_blocks.0.conv1": 8}  # of a transposed convolution, whose weight has its outputs second
    state = {f"upsampler.{k}.weight": torch.randn(s) for k, s in shapes.items()}
    state |= {f"upsampler.{k}.bias": torch.randn(bias.get(k, s[0])) for k, s in shapes.items()}
    config = {
        "_class_name": "UpsamplerModel", "_diffusers_version": "0.33.0", "in_channels": 4, "out_channels": 4,
        "block_out_channels": [8, 4], "strides": [2, 1], "is_up_samples": [True, False], "norm_num_groups": 2,
        "act_fn": "silu", "interpolate": "bilinear",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    model = LatentUpsampler.from_pretrained(tmp_path)
    assert {k: v for k, v in model.state_dict().items() if not torch.equal(v, state[k])} == {}
    assert model.state_dict().keys() == state.keys()
    assert (model.config.in_channels, model.config.vae) == (4, "")
    assert model.upsample(torch.randn(1, 4, 6, 8), 12, 16).shape == (1, 4, 12, 16)


def test_refusals():
    with pytest.raises(ValueError, match="strides"):
        LatentUpsampler(strides=(1, 1))
    with pytest.raises(ValueError, match="one entry for each"):
        LatentUpsampler(strides=(2,))
    with pytest.raises(ValueError, match="exactly one block"):
        LatentUpsampler(strides=(2, 2), is_up_samples=(True, True))
    with pytest.raises(ValueError, match="'silu'"):
        LatentUpsampler(act_fn="relu")
    with pytest.raises(ValueError, match="4 channels"):
        LatentUpsampler().upsample(torch.randn(1, 4, 8, 8), 16, 16)
