"""The average of the weights."""

import pytest
import torch
from torch import nn

from lssgen.training.common import Average


def test_an_average_begins_by_following_and_then_trails():
    net = nn.Linear(1, 1, bias=False)
    average, value = Average(net, decay=0.5), 0.0
    with torch.no_grad():
        net.weight.zero_()
        average.weights["weight"].zero_()
        for step, target in enumerate((1.0, 2.0, 3.0), 1):
            net.weight.fill_(target)
            average.update(net)
            decay = min(0.5, (1 + step) / (10 + step))
            value = decay * value + (1 - decay) * target
    assert average.weights["weight"].item() == pytest.approx(value)
