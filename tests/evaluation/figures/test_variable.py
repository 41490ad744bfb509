"""The figures show what they are given, whatever the labels and however few the records."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from metavoxel.evaluation.distributions import Normal, Sampled
from metavoxel.evaluation.figures import variable
from metavoxel.evaluation.figures.style import palette


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("labels", [2, 3, 8])
def test_every_curve_has_its_own_colour_and_a_label_nobody_has_none(labels: int) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) % max(2, labels - 1)  # of more than two, nobody has the last
    names = [f"stage {k}" for k in range(labels)]
    systems = {s: rng.dirichlet(np.ones(labels), size=40) for s in "abc"}
    fig = variable.roc_curves(truth, systems, names, palette("b", systems))
    curves = fig.axes[0].get_lines()[1:]  # the first is chance
    said = [str(line.get_label()) for line in curves]
    assert said == (["a", "b", "c"] if labels == 2 else names[:-1])
    assert len({line.get_color() for line in curves}) == len(curves)


def test_a_system_keeps_its_colour_and_the_compared_one_comes_first() -> None:
    colours = palette("ours", ["mean", "ours", "3 samples"])
    assert [*colours] == ["ours", "mean", "3 samples"]
    assert len(set(colours.values())) == 3


def test_coverage_curves_end_where_the_draws_do() -> None:
    rng = np.random.default_rng(0)
    truth, zeros = rng.normal(size=30), np.zeros(30)
    systems = {"few": Sampled(rng.normal(size=(30, 3))), "stated": Normal(zeros, zeros + 1)}
    fig = variable.coverage_curves(truth, systems, {0.5: 0.6}, palette("few", systems))
    ends = {str(x.get_label()): np.max(x.get_xdata()) for x in fig.axes[0].get_lines()}
    assert ends["few"] == pytest.approx(0.5)
    assert ends["stated"] == pytest.approx(0.98)
    assert ends["conformal"] == 0.5


def test_the_confusion_counts_true_labels_in_rows() -> None:
    fig = variable.confusion(np.array([0, 0, 1]), np.array([0.0, 1, 1]), ["F", "M"])
    assert [t.get_text() for t in fig.axes[0].texts] == ["1", "1", "0", "1"]


def test_one_record_can_be_drawn() -> None:
    one = np.array([40.0])
    variable.scatter(one, one + 2, ("true age", "predicted age"), "one")
    variable.error_and_truth(one, one + 2, None, "age")
    variable.pit_histograms({"a": [1, 0, 0, 0, 0]}, 1, {"a": "k"})
    variable.reliability(np.ones(1), np.array([0.9]))
