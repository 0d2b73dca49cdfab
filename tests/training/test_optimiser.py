"""The optimiser that all training shares."""

import pytest
import torch
from torch import nn

from lssgen.training.optimiser import MuonAdam, orthogonalise, parameter_groups


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalise_brings_singular_values_near_one(rng, shape):
    made = orthogonalise(torch.randn(shape, generator=rng), dtype=torch.float32)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_several_matrices_are_orthogonalised_as_each_alone(rng, shape):
    several = torch.randn(3, *shape, generator=rng) * torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1)
    made = orthogonalise(several, dtype=torch.float32)
    for one, alone in zip(made, several, strict=True):
        torch.testing.assert_close(one, orthogonalise(alone, dtype=torch.float32), atol=1e-5, rtol=1e-4)


def test_an_update_is_muons_for_convolutions_and_adams_for_the_rest(rng):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1))  # two of one shape
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=rng)
    before = [p.detach().clone() for p in net.parameters()]
    other = [nn.Parameter(p.clone()) for p in before if p.ndim == 1]
    adam = torch.optim.Adam(other, 0.1, betas=(0.9, 0.97))
    for p, q in zip(other, (p for p in net.parameters() if p.ndim == 1), strict=True):
        p.grad = q.grad.clone()
    adam.step()
    MuonAdam(parameter_groups(net), 0.1, dtype=torch.float32).step()
    for p, was in zip(net.parameters(), before, strict=True):
        if p.ndim == 1:
            torch.testing.assert_close(p, other.pop(0), atol=1e-6, rtol=1e-5)
        else:
            wanted = 0.2 * max(p.flatten(1).shape) ** 0.5 * orthogonalise(p.grad.flatten(1), dtype=torch.float32)
            torch.testing.assert_close(was - p, 0.1 * wanted.view_as(p), atol=1e-5, rtol=1e-4)


def test_what_has_no_gradient_stays_and_counts_for_itself(rng):
    """As the layers of an upsampler that a batch does not pass."""
    used, idle = nn.Linear(3, 3), nn.Linear(3, 3)
    net, before = nn.ModuleList([used, idle]), idle.weight.detach().clone()
    optimiser = MuonAdam(parameter_groups(net), 0.1, dtype=torch.float32)
    for layers in ([used], [used, idle]):
        optimiser.zero_grad()
        sum(layer(torch.ones(1, 3)).sum() for layer in layers).backward()
        optimiser.step()
        assert torch.equal(idle.weight, before) == (idle not in layers)
    assert (optimiser.state[used.bias]["n"], optimiser.state[idle.bias]["n"]) == (2, 1)
