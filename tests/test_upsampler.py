"""LatentUpsampler: sizes, parameter counts, checkpoint layout, refusals."""

from __future__ import annotations

import pytest
import torch

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
