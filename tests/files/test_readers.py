"""One reader a kind of file: the right value, or one sentence that names the file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from folders import noise, write_nifti, write_png
from metavoxel.errors import MetaVoxelError
from metavoxel.files.arrays import map_array, read_arrays
from metavoxel.files.json import read_json, read_model, read_object
from metavoxel.files.limits import VARIABLE, check_voxels
from metavoxel.files.picture import read_picture
from metavoxel.files.table import read_lines
from metavoxel.files.text import read_text
from metavoxel.files.volume import read_voxels
from metavoxel.files.wall import reading
from metavoxel.files.weights import load_weights, write_weights
from metavoxel.files.yaml import read_yaml

READERS: dict[str, Callable[[Path], Any]] = {
    "text.txt": read_text,
    "data.json": read_json,
    "data.yaml": read_yaml,
    "table.tsv": read_lines,
    "picture.png": read_picture,
    "volume.nii.gz": read_voxels,
    "arrays.npz": read_arrays,
    "array.npy": map_array,
    "weights.safetensors": lambda path: load_weights(nn.Linear(2, 2), path),
}


# Every line is nine of the line before: 9^11 values in some hundred characters.
LAUGHS = "x0: &x0 [1]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def refusal(read: Callable[[], Any]) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(MetaVoxelError) as caught:
        read()
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_said(name: str, tmp_path: Path) -> None:
    path, read = tmp_path / name, READERS[name]
    assert "there is no such file" in refusal(lambda: read(path))
    path.symlink_to("annex/objects/key")
    assert "a link to a file that is not here" in refusal(lambda: read(path))
    path.unlink()
    path.mkdir()
    assert "this is a folder" in refusal(lambda: read(path))
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    assert "not a regular file" in refusal(lambda: read(path))
    long = tmp_path / ("n" * 300 + name)
    assert "cannot be read (File name too long)" in refusal(lambda: read(long))


@pytest.mark.parametrize(
    "name", [name for name in READERS if name not in ("text.txt", "table.tsv")]
)
@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"hello", b"\x1f\x8b", b"[" * 10**5]
)
def test_damage_is_one_sentence_with_the_file(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if name == "data.yaml" and content in (b"", b"hello"):
        assert read_yaml(path) in (None, "hello")
    else:
        assert name in refusal(lambda: READERS[name](path))


def test_what_a_library_raises_is_one_line_without_control_characters() -> None:
    path = Path(__file__)
    for error in (RecursionError(), MemoryError(), KeyError("\x1b[31mred"), ValueError("a\nb")):

        def read(error: Exception = error) -> None:
            with reading(path, "a good file"):
                raise error

        assert "damaged, or not a good file (" in refusal(read)


def test_text_is_utf8_with_or_without_a_mark_and_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for mark in (b"", b"\xef\xbb\xbf"):
        for end in (b"\n", b"\r\n", b"\r"):
            path.write_bytes(mark + "a\u00e9".encode() + end + b"b")
            assert read_text(path) == "a\u00e9\nb"
    for other in ("utf-16", "utf-32", "latin-1"):
        path.write_bytes("a\u00e9b".encode(other))
        assert "Save it as UTF-8." in refusal(lambda: read_text(path))


def test_a_lone_quote_swallows_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('id\tnote\na\t"6 feet\nb\t x \n')
    assert read_lines(tmp_path / "t.tsv")[:3] == [["id", "note"], ["a", '"6 feet'], ["b", "x"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,}', "line 1: this is not valid JSON"),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        (f'{{"a": {"9" * 5000}}}', "digits"),
        ("[" * 100_000, "recursion"),
        ('{"a": "\\ud800"}', "surrogates"),
    ],
)
def test_json_is_what_its_grammar_says(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert said in refusal(lambda: read_json(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [\n", "line 3: this is not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", 'line 3: this is not valid YAML (the key "a" stands twice'),
        ("a: !!python/object/apply:os.system ['true']", "constructor"),
        ("a: &a [*a]\nb: [*a]", "it unfolds to more than"),
        (f"a: {'9' * 5000}", "digits"),
        (LAUGHS, "unfolds"),
    ],
)
def test_yaml_holds_plain_values_alone(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert said in refusal(lambda: read_yaml(path))


def test_objects_and_models_name_the_key(tmp_path: Path) -> None:
    class Point(BaseModel):
        x: float

    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({"x": 2}), encoding="utf-8")
    assert read_model(path, Point).x == 2
    path.write_text('{"x": "two"}')
    assert "a.json, key x: " in refusal(lambda: read_model(path, Point))
    path.write_text("[1]")
    assert "not a JSON object (it holds a list)" in refusal(lambda: read_object(path))


def test_a_large_image_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = write_nifti(tmp_path / "v.nii.gz", noise(8, 8, 8))
    picture = write_png(tmp_path / "p.png", np.zeros((8, 70), np.uint8) + 1)
    check_voxels(volume, (512, 512, 512))
    assert "at most 134,217,728" in refusal(lambda: check_voxels(volume, (512, 512, 513)))
    monkeypatch.setenv(VARIABLE, "511")
    assert "its header claims 512 voxels (8x8x8)" in refusal(lambda: read_voxels(volume))
    assert f"environment variable {VARIABLE}" in refusal(lambda: read_picture(picture))
    for wrong in ("many", "-1", "0", "1e9", "9" * 40):
        monkeypatch.setenv(VARIABLE, wrong)
        assert f'{VARIABLE} is "{wrong}"' in refusal(lambda: read_voxels(volume))


def test_a_volume_that_holds_more_than_it_says_is_no_bomb(tmp_path: Path) -> None:
    volume = write_nifti(tmp_path / "v.nii.gz", noise(8, 8, 8))
    whole = gzip.decompress(volume.read_bytes())
    volume.write_bytes(gzip.compress(whole + bytes(2**26), 1))
    assert "far more than its header says" in refusal(lambda: read_voxels(volume))


def test_weights_come_back_and_have_the_mode_of_other_files(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    write_weights(first, tmp_path / "w.safetensors")
    load_weights(second, tmp_path / "w.safetensors")
    assert torch.equal(first.weight, second.weight)
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    said = refusal(lambda: load_weights(nn.Linear(4, 4), tmp_path / "w.safetensors"))
    assert "weights of this network" in said


def test_arrays_hold_no_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    assert read_arrays(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "o.npy" in refusal(lambda: map_array(tmp_path / "o.npy"))
