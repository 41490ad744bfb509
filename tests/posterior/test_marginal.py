"""A tabulated distribution has the moments, quantiles and scores of the one that it tabulates."""

import numpy as np
import pytest
from scipy.stats import norm

from metavoxel.posterior.marginal import Marginal

MEAN, STD = np.array([1.0, -3.0]), np.array([2.0, 0.5])
VALUES = np.array([2.5, -3.9])


@pytest.fixture
def normals() -> Marginal:
    """Two normal distributions of different mean and spread."""
    edges = MEAN[:, None] + STD[:, None] * np.linspace(-8, 8, 401)
    return Marginal(edges, np.diff(norm.cdf(edges, MEAN[:, None], STD[:, None])))


def test_moments_quantiles_and_density_are_those_of_the_normals(normals):
    assert normals.mean == pytest.approx(MEAN)
    assert normals.std == pytest.approx(STD, rel=1e-3)
    assert normals.cdf(VALUES) == pytest.approx(norm.cdf(VALUES, MEAN, STD), abs=2e-4)
    assert normals.quantile(0.1) == pytest.approx(norm.ppf(0.1, MEAN, STD), abs=2e-3)
    assert normals.log_density(VALUES) == pytest.approx(norm.logpdf(VALUES, MEAN, STD), abs=1e-3)
    assert normals.log_density(100.0) == pytest.approx(-np.inf)


def test_the_crps_is_the_normals_in_closed_form(normals):
    z = (VALUES - MEAN) / STD
    expected = STD * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert normals.crps(VALUES) == pytest.approx(expected, rel=1e-3)


def test_the_crps_of_one_uniform_cell_is_exact():
    """Of Uniform(0, 1) at x: x^2 - x + 1/3 inside, x - 2/3 above."""
    uniform = Marginal(np.array([0.0, 1.0]), np.array([1.0]))
    x = np.array([0.0, 0.3, 1.0, 2.0])
    assert uniform.crps(x) == pytest.approx(np.where(x <= 1, x**2 - x + 1 / 3, x - 2 / 3))


def test_a_known_value_is_certain():
    known = Marginal(np.array([[4.0, 4.0], [5.0, 5.0]]), np.ones((2, 1)))
    assert known.mean.tolist() == known.quantile(0.9).tolist() == [4, 5]
    assert known.std.tolist() == [0, 0]
    assert known.cdf(4.5).tolist() == [1, 0]
    assert known.crps(4.5) == pytest.approx([0.5, 0.5])
    assert known.log_density(4.0).tolist() == [np.inf, -np.inf]
