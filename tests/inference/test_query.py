"""The notation: what is asked, a bar, what is known."""

from __future__ import annotations

import pytest

from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import Query, Question, parse_query, parse_question
from metavoxel.schema import Schema, parse_schema


@pytest.fixture
def schema() -> Schema:
    return parse_schema(
        {
            "variables": {
                "image": {"kind": "image", "shape": [8, 8, 8], "spacing": [4, 4, 4]},
                "age": {"kind": "continuous", "unit": "years", "range": [18, 90]},
                "sex": {"kind": "categorical", "labels": ["F", "M"]},
            }
        },
        "test",
    )


@pytest.mark.parametrize(
    ("text", "asked", "given"),
    [
        ("age", ("age",), {}),
        ("age, sex | image=scan.nii.gz", ("age", "sex"), {"image": "scan.nii.gz"}),
        ("image|age=80,sex=F", ("image",), {"age": "80", "sex": "F"}),
        ('age | image="a, b=c.nii.gz", sex=M', ("age",), {"image": "a, b=c.nii.gz", "sex": "M"}),
        ("age | image=/data/a b/scan.nii.gz", ("age",), {"image": "/data/a b/scan.nii.gz"}),
        ("age | stage='T4, N1', height=5'", ("age",), {"stage": "T4, N1", "height": "5'"}),
        ("  age |  ", ("age",), {}),
    ],
)
def test_reads(text: str, asked: tuple[str, ...], given: dict[str, str]) -> None:
    assert parse_query(text) == Query(asked, given)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing to ask for"),
        ("| age=3", "nothing to ask for"),
        ("age,,sex", "nothing to ask for"),
        ("age | sex | image=x", "more than one bar"),
        ("age=3 | sex=F", "left of the bar"),
        ("age | sex", "not name=value"),
        ("age | sex=", "not name=value"),
        ("age | sex=''", "not name=value"),
        ("age | sex=F, sex=M", "given twice"),
    ],
)
def test_refuses_what_it_cannot_read(text: str, says: str) -> None:
    with pytest.raises(MetaVoxelError, match=says):
        parse_query(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("height", 'no variable "height"; the schema has image, age, sex'),
        ("age | height=3", 'no variable "height"'),
        ("age | age=30", "both asked and given"),
        ("age, age", "asked twice"),
        ("sex | age=old", "not a number"),
        ("sex | age=120", "outside the range 18 to 90"),
        ("age | sex=X", '"X" is not one of F, M'),
    ],
)
def test_refuses_what_the_schema_does_not_have(schema: Schema, text: str, says: str) -> None:
    with pytest.raises(MetaVoxelError, match=says):
        parse_query(text).check(schema)


def test_parses_values_by_kind(schema: Schema) -> None:
    checked = parse_query("image | age=80, sex=F").check(schema)
    assert checked.given == {"age": 80.0, "sex": "F"}


@pytest.mark.parametrize(
    ("text", "asked", "given"),
    [
        ("age | image, sex", ("age",), ("image", "sex")),
        ("age, sex|image", ("age", "sex"), ("image",)),
        ("age |", ("age",), ()),
        ("image", ("image",), ()),
    ],
)
def test_reads_a_kind_of_question(
    schema: Schema, text: str, asked: tuple[str, ...], given: tuple[str, ...]
) -> None:
    question = parse_question(text)
    assert question == Question(asked, given)
    assert parse_question(str(question.check(schema))) == question


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("age | sex=F", "names alone"),
        ("age | image,", "names alone"),
        ("age | sex | image", "names alone"),
        ("| image", "nothing to ask for"),
        ("age | weight", 'no variable "weight"'),
        ("age | image, age", "age stands twice"),
        ("age | image, image", "image stands twice"),
        ("age, age | image", "asked twice"),
    ],
)
def test_refuses_a_kind_of_question(schema: Schema, text: str, says: str) -> None:
    with pytest.raises(MetaVoxelError, match=says):
        parse_question(text).check(schema)
