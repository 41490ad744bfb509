"""The notation: what is asked, a bar, what is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metavoxel.errors import MetaVoxelError
from metavoxel.inference.query import (
    Query,
    Question,
    file_path,
    parse_query,
    parse_question,
    parse_values,
)
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
        (
            'age | image="a|b, c=d.nii.gz" , sex=F',
            ("age",),
            {"image": "a|b, c=d.nii.gz", "sex": "F"},
        ),
        ("age | image=' a ', ", ("age",), {"image": " a "}),
        (
            "age |\n  image = a=b.nii.gz,\n  sex = F\n",
            ("age",),
            {"image": "a=b.nii.gz", "sex": "F"},
        ),
        (
            "age | image=/data/Anna’s “best”.nii.gz",
            ("age",),
            {"image": "/data/Anna’s “best”.nii.gz"},
        ),
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
        ("age | sex=F,, weight=3", "not name=value"),
        ('age | image="a, b.nii.gz', 'quotes in image="a, b'),
        ("age | image='a'b", "do not enclose a value"),
        ("age | image=“a, b.nii.gz”, sex=F", "“ is a quotation mark of typesetting"),
        ("age | image=a|b.nii.gz", "bar in it needs quotes"),
        ("age \x1b[31m| sex=F", r"control character \(U\+001B\)"),
        ("age | image=a\0b", r"control character \(U\+0000\)"),
        ("age | image=" + "x" * 30_000, "has 30,012 characters"),
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


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters='"'), min_size=1)


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.sampled_from(["", " ", " \n "]),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_in_quotes_is_read_as_it_is(
    asked: list[str], known: dict[str, str], space: str
) -> None:
    """Whatever a value holds: commas, bars, equals signs, spaces at its ends, the other quote."""
    right = f",{space}".join(f'{name}={space}"{value}"{space}' for name, value in known.items())
    text = f"{space},".join(asked) + f"{space}|{space}{right}"
    assert parse_query(text) == Query(tuple(asked), known)
    assert parse_values(right) == known


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    for parse in (parse_query, parse_question, parse_values):
        try:
            parse(text)
        except MetaVoxelError as error:
            assert str(error).endswith(".")


def test_values_alone_have_no_bar() -> None:
    assert parse_values("") == parse_values("  ") == {}
    assert parse_values("age=70, sex=F") == {"age": "70", "sex": "F"}
    with pytest.raises(MetaVoxelError, match="a bar stands"):
        parse_values("age=70 | sex=F")


def test_a_question_is_text() -> None:
    with pytest.raises(MetaVoxelError, match="text, not NoneType"):
        parse_query(None)  # type: ignore[arg-type]  # what is tested


def test_the_home_of_the_user_is_found(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    checked = parse_query("age | image=~/a~b.nii.gz").check(schema)
    assert checked.given == {"image": file_path("/home/me/a~b.nii.gz")}
    assert str(file_path("~nobody-of-this-name/a")) == "~nobody-of-this-name/a"
