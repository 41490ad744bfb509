"""Two datasets are compared by all that they declare, setting by setting."""

from __future__ import annotations

from typing import Any

import pytest

from metavoxel.data.description import Pipeline
from metavoxel.preprocess.declaration import mismatch, other_versions, recipe_of
from metavoxel.preprocess.preparation import Preparation
from metavoxel.preprocess.recipe import Recipe

FMRIPREP: Pipeline = {"Name": "fMRIPrep", "Version": "24.0.0", "Description": "words"}


def told(tools: str = "1", **settings: Any) -> Pipeline:
    recipe = {"settings": Recipe(**settings).model_dump(mode="json"), "tools": {"ants": tools}}
    return {"Name": "metavoxel preprocess", "Description": "words", "Recipe": recipe}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 4}, "resolution 4.0, not 2.0"),
        ({"skull_strip": "none"}, "skull_strip none, not deepbet"),
        ({"bias_correction": "none"}, "bias_correction none, not n4"),
        ({"brightest": 98}, "brightest 98.0, not 99.5"),
    ],
)
def test_the_setting_that_differs_is_named(settings: dict[str, Any], words: str) -> None:
    found = mismatch([told(**settings)], [told()])
    assert found is not None
    assert words in found
    assert mismatch([told(**settings)], [told(**settings)]) is None


def test_another_template_is_a_setting_that_differs() -> None:
    other = told()
    other["Recipe"]["settings"]["template"] = "MNI305"
    found = mismatch([other], [told()])
    assert found is not None
    assert f"template MNI305, not {Recipe().template}" in found


def test_another_tool_is_a_mismatch_and_another_version_is_not() -> None:
    found = mismatch([FMRIPREP], [told()])
    assert found is not None
    assert '"fMRIPrep", not by "metavoxel preprocess"' in found
    assert mismatch([told(tools="2")], [told()]) is None
    assert other_versions([told(tools="2")], [told()]) == ["ants 2, not 1"]
    older = {**FMRIPREP, "Version": "20.2.0"}
    assert mismatch([older], [FMRIPREP]) is None
    assert other_versions([older], [FMRIPREP]) == ["fMRIPrep 20.2.0, not 24.0.0"]


@pytest.mark.parametrize("scan", [[FMRIPREP, told()], [told(), FMRIPREP]])
def test_every_pipeline_counts_wherever_it_stands(scan: list[Pipeline]) -> None:
    assert '"fMRIPrep" and "metavoxel preprocess", not by "metavoxel' in str(
        mismatch(scan, [told()])
    )
    assert 'by "metavoxel preprocess", not by "fMRIPrep" and' in str(mismatch([told()], scan))
    assert mismatch(scan, [FMRIPREP, told()]) is None
    assert "resolution 2.0, not 4.0" in str(mismatch(scan, [FMRIPREP, told(resolution=4)]))
    assert mismatch([told(), told()], [told()]) is not None  # twice is not once


def test_a_foreign_preparation_is_compared_by_its_description() -> None:
    a, b = ({"Name": "lab", "Description": words} for words in ("N4, BET", "BET"))
    assert mismatch([a], [a]) is None
    assert "N4, BET" in str(mismatch([a], [b]))
    assert "not described" in str(mismatch([{"Name": "lab"}], [b]))


@pytest.mark.parametrize("recipe", ["N4 and BET", {"settings": "N4"}, [], None])
def test_a_recipe_of_another_form_is_no_recipe(recipe: object) -> None:
    foreign = {**told(), "Recipe": recipe}
    assert mismatch([foreign], [told()]) is None  # their descriptions agree
    assert recipe_of([foreign]) is None


def test_a_declared_recipe_can_be_followed_if_it_is_all_that_was_done() -> None:
    assert recipe_of([told(resolution=4)]) == Recipe(resolution=4)
    assert recipe_of([{"Name": "lab"}]) is None
    assert recipe_of([FMRIPREP, told()]) is None
    assert recipe_of([]) is None


def test_a_model_of_before_kept_one_pipeline_as_an_object() -> None:
    assert Preparation.from_json({"declared": told()}).declared == (told(),)
    assert Preparation.from_json({"declared": [FMRIPREP, told()]}).declared == (FMRIPREP, told())
    for nothing in ({"declared": None}, {"declared": []}, {}):
        assert Preparation.from_json(nothing).declared == ()
