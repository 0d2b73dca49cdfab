"""RoundTripUpsampler: sizes, locality, storing, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lssgen.upsampler import LatentUpsampler, RoundTripUpsampler, blank_upsampler, load_upsampler
from lssgen.upsampler.round_trip import READ

WIDTHS = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
REACH = 16  # small latent pixels, more than it sees each way


def narrow(seed: int = 0, **settings: object) -> RoundTripUpsampler:
    """With weights that answer to their input throughout."""
    torch.manual_seed(seed)
    model = RoundTripUpsampler(4, **{**WIDTHS, **settings}).eval()
    for block in model.refine:
        torch.nn.init.normal_(block.conv3.weight, std=0.1)
    return model


def test_it_has_as_many_parameters_as_its_docstring_says():
    assert f"{RoundTripUpsampler().num_parameters():,} parameters" in RoundTripUpsampler.__doc__


@pytest.mark.parametrize(("height", "width"), [(8, 10), (11, 13), (16, 20), (24, 31), (33, 40)])
def test_any_size_in_hops_of_two(height, width):
    made = narrow().upsample(torch.randn(2, 4, 8, 10), height, width)
    assert made.shape == (2, 4, height, width)
    assert made.isfinite().all()


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_an_autoencoder_may_have_any_factor(levels):
    names = ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks")
    model = RoundTripUpsampler(4, **dict.fromkeys(names, (2,) * levels))
    assert model.factor == 2 ** (levels - 1)
    z = torch.randn(1, 4, 6, 8)
    assert model.features(z).shape[-2:] == (3 * model.factor, 4 * model.factor)
    assert model(z).shape == (1, 4, 12, 16)


def test_a_place_stays_where_it_is():
    """What changes at one point changes about the same place of the larger grid, and nothing far from it."""
    models, z = [narrow(seed) for seed in range(6)], torch.randn(1, 4, 48, 56)
    changed, (y, x) = z.clone(), (22, 26)
    changed[..., y, x] += 2
    for ratio in (1.5, 2.0):
        size = (int(48 * ratio), int(56 * ratio))
        with torch.no_grad():
            change = sum((model(changed, size) - model(z, size))[0].square().sum(0) for model in models)
        rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
        for places, at in ((rows, y), (columns, x)):
            middle = (at + 0.5) * ratio - 0.5
            assert ((change * places).sum() / change.sum()).item() == pytest.approx(middle, abs=1.5)
            assert change[(places - middle).abs() > ratio * REACH].max() < 1e-10


def test_tiles_equal_the_whole_away_from_seams():
    model, z = narrow(), torch.randn(1, 4, 56, 56)
    with torch.no_grad():
        whole, tile = model(z), model(z[..., 4:52, 4:52])
    inner = slice(2 * REACH, -2 * REACH)
    torch.testing.assert_close(tile[..., inner, inner], whole[..., 8:104, 8:104][..., inner, inner])
    assert not torch.allclose(tile, whole[..., 8:104, 8:104])


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("size", [(12, 16), (9, 13)])
def test_mirrored_kernels_mirror_the_sketch(axis, size):
    """So it is not shifted by half a pixel."""
    model, mirrored, z = narrow(), narrow(), torch.randn(1, 4, 6, 8)
    with torch.no_grad():
        for p in (*mirrored.decode.parameters(), mirrored.draw.weight):
            if p.ndim == 4:
                p.copy_(p.flip(axis))
        for p in (mirrored.draw.weight, mirrored.draw.bias):  # a feature's pixels
            p.copy_(p.unflatten(0, (-1, 2, 2)).flip(axis + 3).flatten(0, 2))
        both = ((model, z), (mirrored, z.flip(axis)))
        one, other = (F.pixel_shuffle(m.sketch(m.features(x), size), READ) for m, x in both)
        assert one.shape == (1, 8, 8 * size[0], 8 * size[1])
        torch.testing.assert_close(other.flip(axis), one, atol=1e-5, rtol=1e-5)


def test_save_and_load_is_the_identity(tmp_path):
    model = narrow(vae="tiny", sketch_channels=3, blocks=2)
    model.save_pretrained(tmp_path)
    loaded, z = load_upsampler(tmp_path), torch.randn(1, 4, 8, 8)
    assert torch.equal(model(z, (11, 16)), loaded(z, (11, 16)))
    assert (loaded.config.vae, loaded.config.sketch_channels, len(loaded.refine)) == ("tiny", 3, 2)
    assert load_upsampler(tmp_path, torch.bfloat16).dtype == torch.bfloat16
    assert blank_upsampler(tmp_path).state_dict().keys() == model.state_dict().keys()
    LatentUpsampler(4, 4, (8, 4), norm_num_groups=2).save_pretrained(tmp_path / "other")
    assert isinstance(blank_upsampler(tmp_path / "other"), LatentUpsampler)


@pytest.mark.parametrize("side", [16, 13])
def test_bfloat16_is_near_float32(side):
    model, z = narrow(), torch.randn(1, 4, 8, 8)
    exact = model.upsample(z, side, side)
    rounded = model.to(torch.bfloat16).upsample(z, side, side)
    assert rounded.dtype == torch.float32, "of the latents that were given"
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_refusals():
    with pytest.raises(ValueError, match="one entry for each level, 3 or more"):
        RoundTripUpsampler(4, num_encoder_blocks=(1, 1))
    names = ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks")
    with pytest.raises(ValueError, match="3 or more"):
        RoundTripUpsampler(4, **dict.fromkeys(names, (2, 2)))
    with pytest.raises(ValueError, match=r"from \(8, 6\) to \(16, 12\)"):
        narrow()(torch.randn(1, 4, 8, 6), (17, 12))
    with pytest.raises(ValueError, match="this upsampler is for 4"):
        narrow().upsample(torch.randn(1, 16, 8, 8), 16, 16)
