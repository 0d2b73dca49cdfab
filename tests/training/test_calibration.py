"""The last touch on an upsampler: colours and contrast, by an autoencoder that can be seen through."""

import pytest
import torch
import torch.nn.functional as F

from lssgen.training import calibration, measures
from lssgen.training.calibration import Colours, mend
from lssgen.training.networks import build

CHECKER = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1.0


class Plain:
    """Latents of four channels: the colours of 4 x 4 pixels, and how much of a chequerboard is in them."""

    factor = multiple = 4

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1]
        grey = pixels.mean(1, keepdim=True) * CHECKER[:side, :side]
        return F.avg_pool2d(torch.cat([pixels * 3.0, grey], 1), 4)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        wide = F.interpolate(latents, scale_factor=4.0)
        return wide[:, :3] / 3.0 + wide[:, 3:] * CHECKER[: wide.shape[-1], : wide.shape[-1]]


def crops(side: int = 32, count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Soft colours with a chequerboard of any strength, and the same smaller."""
    torch.manual_seed(0)
    soft = F.interpolate(torch.rand(count, 3, 5, 5) - 0.5, (64, 64), mode="bilinear")
    whole = soft + 0.2 * torch.rand(count, 1, 1, 1) * CHECKER
    return list(zip(whole, F.adaptive_avg_pool2d(whole, side), strict=True))


def test_what_is_no_colour_is_multiplied():
    whole = torch.stack([pair[0] for pair in crops()])
    latents = Plain().encode(whole)
    colours = Colours.of(latents, whole)
    matrix, offset = colours.contrasted(1.5)
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.5])), atol=1e-4, rtol=0)
    torch.testing.assert_close(matrix @ colours.mean + offset, colours.mean)
    changed = Plain().decode(latents + colours.directions()[1].view(1, -1, 1, 1)) - Plain().decode(latents)
    step = torch.tensor([0.0, 2 / 255, 0.0]).view(1, 3, 1, 1).expand_as(whole)
    torch.testing.assert_close(changed, step, atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["doubling", "between"])
def test_colours_come_right_and_contrast_reaches_the_pictures(monkeypatch, part):
    monkeypatch.setattr(calibration, "CROPS", 8)
    vae, shown, side = Plain(), {}, {"doubling": 32, "between": 40}[part]
    for contrast in (1.0, 2.0):
        torch.manual_seed(1)
        model, pairs = build("small", 4, "plain").requires_grad_(False), iter(crops(side))
        last = model.upsampler.conv_out if part == "doubling" else model.upsampler.between.conv_out
        last.weight *= 2  # a network that paints something
        last.bias += torch.tensor([0.9, -0.3, 0.2, 0.0])
        facts = mend(model, last, vae, lambda pairs=pairs: next(pairs), torch.device("cpu"), contrast)
        assert max(abs(value) for value in facts["colour_shift"]) < 0.05
        made = torch.cat([vae.decode(model(vae.encode(small[None]), (16, 16))) for _, small in crops(side)])
        true = torch.stack([whole for whole, _ in crops()])
        assert measures.colour_shift(made.clamp(-1, 1) / 2, true / 2).mean(0).abs().max() < 0.05
        shown[contrast] = vae.encode(made)
    detail = [latents[:, 3] - latents[:, 3].mean() for latents in shown.values()]
    torch.testing.assert_close(detail[1], 2 * detail[0], atol=1e-3, rtol=0.02)
