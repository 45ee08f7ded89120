"""The generalised Gaussian against SciPy's, and z's prior made of it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import gennorm

from tcm_lab.codec.generalised_gaussian import (
    REACH,
    SHAPE,
    TAIL_MASS,
    conditional,
    cumulative,
    interval,
    quantile,
    tail,
)
from tcm_lab.codec.priors import GeneralisedGaussianPrior

POINTS = torch.linspace(-9, 9, 721, dtype=torch.float64)  # zero among them


def test_probabilities_are_scipy_s() -> None:
    # Far below the mean SciPy's own cumulative has lost its digits; its survival function has not.
    above = gennorm.sf(POINTS.numpy(), SHAPE)
    np.testing.assert_allclose(tail(POINTS).numpy(), above, rtol=1e-12)
    np.testing.assert_allclose(cumulative(-POINTS).numpy(), above, rtol=1e-12)
    np.testing.assert_allclose(cumulative(-POINTS.float()).numpy(), above, rtol=1e-4)
    assert 2 * tail(torch.tensor(REACH, dtype=torch.float64)) == pytest.approx(TAIL_MASS, rel=1e-9)
    assert -quantile(TAIL_MASS / 2) == pytest.approx(REACH, rel=1e-8)


def test_the_gradient_is_the_density_at_the_mean_too() -> None:
    points = POINTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cumulative(points).sum(), points)
    np.testing.assert_allclose(gradient.numpy(), gennorm.pdf(POINTS.numpy(), SHAPE), rtol=1e-12)


def test_likelihoods_of_all_steps_sum_to_one_whatever_the_scale() -> None:
    steps = torch.arange(-2000, 2001)[:, None]
    scales = torch.tensor([0.12, 0.7, 3.0, 64.0, 256.0], dtype=torch.float64)
    assert torch.allclose(interval(steps.abs(), scales).sum(0), torch.ones(5).double())
    module = pickle.loads(pickle.dumps(conditional(0.12)))
    y, means = torch.randn(2, 1, 3, 4, 4) * 5
    _, likelihoods = module.eval()(y, torch.full_like(y, 0.01), means)  # bounded below
    expected = interval((y - means).round().abs().double(), torch.tensor(0.12).double())
    torch.testing.assert_close(likelihoods.double(), expected.clamp(min=1e-9))


def test_the_prior_codes_what_it_says_it_does() -> None:
    prior = GeneralisedGaussianPrior(6).eval()
    with torch.no_grad():
        prior.means.copy_(torch.linspace(-3, 3, 6)[:, None, None])
        prior.scales.copy_(torch.tensor([0.01, 0.3, 1.0, 3.0, 10.0, 80.0])[:, None, None])
        noise = gennorm.rvs(SHAPE, size=(2, 6, 40, 40), random_state=0)
        z = prior.means + prior.scales.clamp(min=0.12) * torch.from_numpy(noise).float()
        z[0, 1, 0, 0] = 500.0  # beyond its table
        z_hat, likelihoods = prior(z)
    strings = prior.compress(z)
    assert torch.equal(prior.decompress(strings, (40, 40)), z_hat)
    assert (z_hat - z).abs().max() <= 0.5 + 1e-5
    bits = -likelihoods.double().log2().sum().item()
    assert 8 * sum(map(len, strings)) == pytest.approx(bits, rel=4e-3)


def test_gradients_reach_the_prior_s_means_and_scales() -> None:
    prior = GeneralisedGaussianPrior(3)
    prior(torch.randn(2, 3, 4, 4) * 5)[1].log().sum().backward()
    for parameter in (prior.means, prior.scales):
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0
