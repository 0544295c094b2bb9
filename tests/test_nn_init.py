"""Initial values: bounds, standard deviations, repeatability."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.nn import init

SHAPE = (40, 30, 5)
FAN_IN, FAN_OUT = 150, 200


# name, standard deviation, largest magnitude (None: unbounded)
CASES = [
    (lambda t, g: init.xavier_uniform_(t, generator=g), math.sqrt(2 / 350), math.sqrt(6 / 350)),
    (lambda t, g: init.xavier_normal_(t, 2.0, generator=g), 2 * math.sqrt(2 / 350), None),
    (lambda t, g: init.kaiming_uniform_(t, math.sqrt(5), generator=g), math.sqrt(1 / 450), math.sqrt(1 / 150)),
    (lambda t, g: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu", generator=g), math.sqrt(2 / 200), None),
    (lambda t, g: init.init_by_name(t, "glorot_uniform", g), math.sqrt(2 / 350), math.sqrt(6 / 350)),
    (lambda t, g: init.init_by_name(t, "glorot_normal", g), math.sqrt(2 / 350), 2.274 * math.sqrt(2 / 350)),
    (lambda t, g: init.init_by_name(t, "he_uniform", g), math.sqrt(2 / 150), math.sqrt(6 / 150)),
    (lambda t, g: init.init_by_name(t, "he_normal", g), math.sqrt(2 / 150), 2.274 * math.sqrt(2 / 150)),
    (lambda t, g: init.init_by_name(t, "lecun_normal", g), math.sqrt(1 / 150), 2.274 * math.sqrt(1 / 150)),
    (lambda t, g: init.init_by_name(t, "lecun_uniform", g), math.sqrt(1 / 150), math.sqrt(3 / 150)),
    (lambda t, g: init.init_by_name(t, "torch", g), math.sqrt(1 / 450), math.sqrt(1 / 150)),
    (lambda t, g: init.uniform_(t, -3, 3, generator=g), math.sqrt(3), 3),
    (lambda t, g: init.normal_(t, 0, 0.02, generator=g), 0.02, None),
]


@pytest.mark.parametrize("case", CASES, ids=[str(i) for i in range(len(CASES))])
def test_initial_values_have_their_spread_and_repeat_with_the_generator(case):
    fill, std, bound = case
    t, again = gk.zeros(*SHAPE), gk.zeros(*SHAPE)
    assert fill(t, gk.Generator(4)) is t
    fill(again, gk.Generator(4))
    values = t.numpy()
    assert np.array_equal(values, again.numpy())
    # the variance of a sample variance is at most 2/n of its square: five standard errors
    assert abs(values.std() / std - 1) <= 5 / math.sqrt(2 * values.size)
    assert abs(values.mean()) <= 5 * std / math.sqrt(values.size)
    if bound is not None:
        assert np.abs(values).max() <= bound * (1 + 1e-6)


def test_truncated_normal_follows_its_distribution():
    t = gk.zeros(20000, dtype=np.float64)
    init.trunc_normal_(t, 1.0, 2.0, -1.0, 2.0, generator=gk.Generator(3))
    cdf = lambda v: 0.5 * (1 + math.erf((v - 1) / 2 / math.sqrt(2)))
    ordered = np.sort(t.numpy())
    assert ordered[0] >= -1
    assert ordered[-1] <= 2
    expected = np.array([(cdf(v) - cdf(-1)) / (cdf(2) - cdf(-1)) for v in ordered])
    # Kolmogorov: 1.95/sqrt(n) is exceeded once in 1000
    assert np.abs(expected - (np.arange(20000) + 0.5) / 20000).max() <= 1.95 / math.sqrt(20000)


def test_the_inverse_error_function_is_exact_to_rounding():
    x = np.concatenate([np.linspace(-0.999, 0.999, 201), [1 - 1e-9, -1 + 1e-9, 1e-12]])
    y = init._erfinv(gk.tensor(x)).numpy()
    assert max(abs(math.erf(b) - a) for a, b in zip(x, y, strict=True)) <= 4e-16


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 2, 3), (2, 3, 3)])
def test_orthogonal_rows_or_columns(shape):
    t = init.orthogonal_(gk.zeros(*shape, dtype=np.float64), 2.0, generator=gk.Generator(1))
    m = t.numpy().reshape(shape[0], -1)
    gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    assert np.abs(gram - 4 * np.eye(len(gram))).max() <= 1e-13


def test_constants():
    t = gk.randn(3, 2)
    assert init.ones_(t).numpy().min() == 1
    assert init.zeros_(t).numpy().max() == 0
    assert init.constant_(t, 0.25).numpy().tolist() == [[0.25] * 2] * 3
    assert init.init_by_name(t, "ones").numpy().max() == 1


def test_unknown_names_are_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="glorot_uniform"):
        init.init_by_name(gk.zeros(2, 2), "glorot")
    with pytest.raises(ValueError, match="leaky_relu"):
        init.calculate_gain("swish")
    with pytest.raises(ValueError, match="fan_in"):
        init.kaiming_normal_(gk.zeros(2, 2), mode="fan")
    with pytest.raises(ValueError, match="at least two axes"):
        init.xavier_uniform_(gk.zeros(2))
    with pytest.raises(ValueError, match="a < b"):
        init.trunc_normal_(gk.zeros(2), a=1, b=1)


def test_a_network_repeats_with_the_seed_and_with_a_generator():
    def build(generator=None):
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, generator=generator),
            nn.Linear(3, 4, generator=generator),
            nn.Embedding(3, 2, generator=generator),
        )

    def values(net):
        return np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])

    gk.manual_seed(7)
    first = values(build())
    gk.manual_seed(7)
    assert np.array_equal(values(build()), first)
    assert np.array_equal(values(build(gk.Generator(7))), first)
    assert not np.array_equal(values(build(gk.Generator(8))), first)


def test_filling_a_parameter_bumps_its_version():
    p = nn.Parameter(gk.ones(2, 2))
    y = p * p
    init.ones_(p)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()
