"""LatentUpsampler: sizes, parameter counts, checkpoint layout, refusals."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from lssgen.training.networks import build, grown
from lssgen.upsampler import LatentUpsampler, load_upsampler
from lssgen.upsampler.residual import CELL, Between


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


@pytest.mark.parametrize(("ratio", "calls"), [(1.25, 1), (1.5, 1), (2, 1), (2.5, 2), (3, 2), (4, 2), (8, 3)])
def test_any_ratio_takes_as_few_doublings_as_it_can(ratio, calls):
    """Above 2 the learned upsampler doubled once and bicubic did the rest."""
    model, seen = local(), []
    model.upsampler.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[-2:])))
    height, width = int(8 * ratio), int(16 * ratio)
    assert model.upsample(torch.randn(1, 4, 8, 16), height, width).shape == (1, 4, height, width)
    assert seen == [(8 * 2**k, 16 * 2**k) for k in range(1, calls + 1)]


def test_in_two_hops_it_is_the_network_twice():
    model, z = local(), torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(model.upsample(z, 24, 24), model(model(z)))


def local(seed: int = 0, *, any_ratio: bool = False) -> LatentUpsampler:
    """Without norms: two blocks before the doubling, one after."""
    torch.manual_seed(seed)
    up = (False, False, True, False)
    strides = tuple(1 + u for u in up)
    return LatentUpsampler(4, 4, (8,) * 4, strides, up, norm_num_groups=0, between_channels=(8, 8) * any_ratio).eval()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 13), (16, 16), (20, 25), (17, 9), (40, 33)])
def test_with_any_ratio_the_last_hop_goes_to_the_size_itself(height, width):
    model, seen = local(any_ratio=True), []
    model.upsampler.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[-2:])))
    made = model.upsample(torch.randn(1, 4, 8, 8), height, width)
    assert made.shape == (1, 4, height, width)
    hops = [(min(height, 8 * 2**k), min(width, 8 * 2**k)) for k in range(1, 4)]
    assert seen == hops[: max(0, math.ceil(math.log2(max(height, width) / 8)))]


def test_what_was_trained_to_double_does_so_still_when_grown_for_any_ratio():
    doubling, z = local(), torch.randn(1, 4, 6, 6)
    any_ratio = grown(doubling, local(1, any_ratio=True))
    with torch.no_grad():
        assert torch.equal(any_ratio(z), doubling(z))
        assert any_ratio(z, [9, 11]).shape == (1, 4, 9, 11)


@pytest.mark.parametrize("any_ratio", [False, True])
def test_a_small_one_answers_the_same_when_grown_and_all_of_it_learns(any_ratio):
    torch.manual_seed(0)
    small = build("small", 4, "", any_ratio=any_ratio)
    large, z = grown(small, build("large", 4, "")), torch.randn(2, 4, 6, 6)
    for size in [None, (9, 11)][: 1 + any_ratio]:
        torch.testing.assert_close(large(z, size), small(z, size))
    optimiser = torch.optim.SGD(large.parameters(), 0.01)
    for _ in range(2):  # in the first only what is 0 answers
        optimiser.zero_grad()
        (large(z).square().mean() + large(z, (9, 11)).square().mean()).backward()
        optimiser.step()
    for name, p in large.named_parameters():
        assert p.grad.view(len(p), -1).abs().amax(1).min() > 0, name


def kin(widths: tuple[int, ...] = (30,) * 8, up: int = 6, **other: object) -> LatentUpsampler:
    """Built as `build` does it but for what is told."""
    ups = tuple(k == up for k in range(len(widths)))
    return LatentUpsampler(4, 4, widths, tuple(1 + k for k in ups), ups, **{"norm_num_groups": 0} | other)


@pytest.mark.parametrize(
    "begun",
    [
        kin((8, 4), 0), kin((128,) * 8), kin(norm_num_groups=2), kin(interpolate="nearest"), kin(up=0),
        kin(between_channels=(8,)), kin(between_channels=(113,) * 4), kin(between_channels=(8,) * 4, sketch_channels=2),
    ],
    ids=["blocks", "wider", "norms", "interpolation", "place", "fewer", "wider between", "sketch"],
)  # fmt: skip
@pytest.mark.parametrize("size", ["small", "large"])
def test_one_built_in_another_way_is_not_grown(begun, size):
    with pytest.raises(ValueError, match=r"blocks of \[.*\] and .* channels cannot be grown to \[.*; leave --size out"):
        grown(begun, build(size, 4, ""))


REACH = 7  # low-resolution pixels that `local` sees each way: 1 + 2 + 2, and the doubling's and the last three, halved


def test_without_norms_tiles_equal_the_whole_away_from_seams():
    model, z = local(), torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        whole, tile = model(z), model(z[..., 4:28, 4:28])
    inner = slice(2 * REACH, -2 * REACH)
    torch.testing.assert_close(tile[..., inner, inner], whole[..., 8:56, 8:56][..., inner, inner])
    assert not torch.allclose(tile, whole[..., 8:56, 8:56])


def test_between_sizes_a_place_stays_where_it_is():
    """What changes at one point changes about the same place of the larger grid, and nothing far from it."""
    model, z = local(any_ratio=True), torch.randn(1, 4, 32, 40)
    changed, (y, x), ratio = z.clone(), (20, 10), 1.5
    changed[..., y, x] += 5
    with torch.no_grad():
        change = (model(changed, (48, 60)) - model(z, (48, 60)))[0].square().sum(0)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(60.0), indexing="ij")
    for places, at in ((rows, y), (columns, x)):
        assert ((change * places).sum() / change.sum()).item() == pytest.approx((at + 0.5) * ratio - 0.5, abs=1.0)
        assert change[(places - at * ratio).abs() > 24].max() < 1e-10


def test_the_sketch_is_enlarged_as_a_picture_is():
    """A slope in it is the same slope from edge to edge, with more points."""
    torch.manual_seed(0)
    between, seen = Between(1, 4, (8,), 1, 0), []
    between.before = torch.nn.Identity()
    between.read.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    slope = torch.linspace(0, 1, 8 * CELL).expand(1, CELL, 8 * CELL)
    between.draw.forward = lambda x: torch.nn.functional.pixel_unshuffle(slope[None], CELL)
    with torch.no_grad():
        between(torch.zeros(1, 1, 1, 8), (1, 12))
    sketch = torch.nn.functional.pixel_shuffle(seen[0][:, :-1], CELL)[0, 0]
    assert sketch.shape == (CELL, 12 * CELL)
    expected = (torch.arange(12 * CELL) + 0.5) / (12 * CELL) * 64 / 63 - 0.5 / 63
    torch.testing.assert_close(sketch[3, 4:-4], expected[4:-4], atol=1.5e-3, rtol=0)  # half a point is 5e-3
    assert seen[0][0, -1].unique().item() == pytest.approx(2 / math.sqrt(1.5) - 1)


def test_with_norms_a_far_change_is_felt_and_without_it_is_not():
    torch.manual_seed(0)
    normed, z = LatentUpsampler(4, 4, (8, 8), norm_num_groups=4).eval(), torch.randn(1, 4, 32, 32)
    far = z.clone()
    far[..., 0, 0] += 5
    for model, same in ((local(), True), (normed, False)):
        with torch.no_grad():
            assert torch.equal(model(z)[..., 32:, 32:], model(far)[..., 32:, 32:]) is same


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_kernels_mirror_the_picture(axis):
    """So the grid is not shifted by half a pixel: flips are learnt or not by the kernels alone."""
    model, mirrored, z = local(), local(), torch.randn(2, 4, 10, 12)
    with torch.no_grad():
        for p in mirrored.parameters():
            if p.ndim == 4:
                p.copy_(p.flip(axis))
        torch.testing.assert_close(mirrored(z.flip(axis)), model(z).flip(axis), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("groups", "side"), [(0, 32), (4, 32), (0, 24), (4, 50)])
def test_bfloat16_is_near_float32(groups, side):
    torch.manual_seed(0)
    model = LatentUpsampler(4, 4, (16, 8), norm_num_groups=groups, between_channels=(8,)).eval()
    z = torch.randn(1, 4, 16, 16)
    exact = model.upsample(z, side, side)
    rounded = model.to(torch.bfloat16).upsample(z, side, side)
    assert rounded.dtype == torch.float32, "of the latents that were given"
    assert (rounded - exact).norm() < 0.02 * exact.norm()


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
    with pytest.raises(ValueError, match=r"only doubles, to \(16, 12\)"):
        local()(torch.randn(1, 4, 8, 6), (12, 12))
    for size in ((17, 12), (8, 5)):
        with pytest.raises(ValueError, match=r"from \(8, 6\) to \(16, 12\)"):
            local(any_ratio=True)(torch.randn(1, 4, 8, 6), size)


def test_a_file_that_lacks_a_weight_is_refused_by_its_name(tmp_path):
    local().save_pretrained(tmp_path)
    assert load_upsampler(tmp_path, torch.bfloat16).dtype == torch.bfloat16
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["upsampler.conv_out.bias"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"its file lacks upsampler\.conv_out\.bias"):
        load_upsampler(tmp_path)
