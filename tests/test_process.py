"""Noise levels of the three processes on one scale."""

from __future__ import annotations

import pytest

from lssgen.process import Process


@pytest.mark.parametrize("process", list(Process))
@pytest.mark.parametrize("sigma", [0.05, 0.5, 0.9])
def test_the_flow_sigma_has_the_same_signal_to_noise_ratio(process, sigma):
    signal, amplitude = process.mix(sigma)
    equal = process.flow_sigma(sigma)
    assert signal / amplitude == pytest.approx((1.0 - equal) / equal)


def test_an_edm_sigma_of_3_is_a_flow_sigma_of_three_quarters():
    assert Process.EDM.flow_sigma(3.0) == Process.VP.flow_sigma(3.0) == 0.75


def test_an_infinite_sigma_is_pure_noise():
    assert Process.VP.mix(float("inf")) == (0.0, 1.0)
    assert Process.VP.flow_sigma(float("inf")) == 1.0


def test_vp_preserves_unit_variance():
    signal, amplitude = Process.VP.mix(2.0)
    assert signal**2 + amplitude**2 == pytest.approx(1.0)
