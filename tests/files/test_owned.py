"""What in a folder is ours: only that is ever overwritten or removed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from killed import every_kill, hidden, names
from metavoxel.errors import MetaVoxelError
from metavoxel.files.owned import MARKER, OwnedFolder, files_below, holding, marker_text
from metavoxel.files.writing import BusyError


def texts(folder: Path) -> dict[str, str]:
    """What every file says, but for the marker, locks and what is half-written."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".metavoxel"))
    return {p.relative_to(folder).as_posix(): p.read_text() for p in found}


def write(owned: OwnedFolder, **files: str) -> None:
    for name, text in files.items():
        with owned.write(f"{name}.txt") as temporary:
            temporary.write_text(text)


def test_a_folder_is_begun_gone_on_with_and_no_other_command_s(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with holding(tmp_path / "out", "ask") as owned:
            write(owned, a=text)
    assert texts(tmp_path / "out") == {"a.txt": "two"}
    with (
        pytest.raises(MetaVoxelError, match=r"out holds what metavoxel ask wrote. Choose another"),
        holding(tmp_path / "out", "evaluate"),
    ):
        pass
    assert texts(tmp_path / "out") == {"a.txt": "two"}


FOREIGN = ["thesis.tex", "sub-01/anat/x.png", "dataset_description.json", ".hidden", "schema.json"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_holds_anything_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(MetaVoxelError, match="is not empty: it holds"), holding(tmp_path, "ask"):
        pass
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        name
    ]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(MetaVoxelError, match="f is a file"), holding(tmp_path / "f", "ask"):
        pass
    with pytest.raises(MetaVoxelError, match="cannot be"), holding(tmp_path / "f" / "g", "ask"):
        pass


def test_where_nothing_was_written_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(RuntimeError), holding(tmp_path / name, "ask"):
            raise RuntimeError
    assert names(tmp_path) == ["empty"]
    assert names(tmp_path / "empty") == []


def test_others_files_are_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    with holding(tmp_path, "inpaint") as owned:
        write(owned, a="ours", b="ours")
        (tmp_path / "c.txt").write_text("mine")
        (tmp_path / "d.txt").symlink_to("c.txt")
        (tmp_path / "e.txt").mkdir()
        (tmp_path / "f").symlink_to(tmp_path)
        for name in ("c", "d", "e", "f/g"):
            with pytest.raises(MetaVoxelError, match="did not write this, and does not overwrite"):
                write(owned, **{name: "ours"})
        assert owned.strangers() == ["c.txt", "d.txt", "e.txt/", "f"]
        owned.keep_only({"a.txt"})
        assert texts(tmp_path) == {"a.txt": "ours", "c.txt": "mine", "d.txt": "mine"}
        owned.clear()
        assert texts(tmp_path) == {"c.txt": "mine", "d.txt": "mine"}
        assert owned.listed() == frozenset()


def test_a_listed_file_that_was_edited_is_ours_to_replace(tmp_path: Path) -> None:
    with holding(tmp_path, "inpaint") as owned:
        write(owned, a="ours")
        (tmp_path / "a.txt").write_text("edited")
        write(owned, a="new")
    assert texts(tmp_path) == {"a.txt": "new"}


def test_folders_that_clearing_leaves_empty_go_and_others_stay(tmp_path: Path) -> None:
    with holding(tmp_path / "out", "ask") as owned:
        for name in ("sub-1/anat/a", "sub-2/anat/a"):
            (tmp_path / "out" / name).parent.mkdir(parents=True)
            write(owned, **{name: "ours"})
        (tmp_path / "out" / "sub-2" / "note").write_text("mine")
        (tmp_path / "out" / "theirs").mkdir()
        assert owned.strangers() == ["sub-2/note", "theirs/"]
        owned.clear()
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert found == {"sub-2", "sub-2/note", "theirs"}


def test_a_folder_that_is_listed_is_ours_whatever_is_in_it(tmp_path: Path) -> None:
    with holding(tmp_path, "evaluate") as owned:
        owned.add("answers/")
        (tmp_path / "answers").mkdir()
        (tmp_path / "answers" / "a.npz").write_text("")
        owned.add("answers/b.npz", "answers/")
        assert owned.listed() == {"answers/"}
        assert owned.strangers() == []


def test_another_s_folder_is_not_listed(tmp_path: Path) -> None:
    with holding(tmp_path, "evaluate") as owned:
        (tmp_path / "answers").mkdir()
        with pytest.raises(MetaVoxelError, match="did not write this"):
            owned.add("answers/")
        assert owned.listed() == frozenset()


def test_a_folder_that_is_replaced_as_a_whole_must_hold_nothing_else(tmp_path: Path) -> None:
    with holding(tmp_path, "ask") as owned:
        write(owned, a="ours")
        owned.check_replaceable()
        (tmp_path / "notes").write_text("mine")
        with pytest.raises(MetaVoxelError, match="notes: metavoxel ask did not write this"):
            owned.check_replaceable()


def test_the_second_of_two_commands_is_told_to_wait(tmp_path: Path) -> None:
    with holding(tmp_path / "out", "ask") as owned:
        write(owned, a="first")
        with (
            pytest.raises(BusyError, match=r"another metavoxel ask is writing here. Wait for it."),
            holding(tmp_path / "out", "ask"),
        ):
            pass
    assert texts(tmp_path / "out") == {"a.txt": "first"}
    assert hidden(tmp_path) == []


def test_commands_that_share_a_folder_list_the_same_once(tmp_path: Path) -> None:
    failed: list[Exception] = []
    folders = [f"{i}/" for i in range(5)]

    def work() -> None:
        try:
            for _ in range(10):
                with holding(tmp_path / "out", "experiment", shared=True) as owned:
                    owned.add(*folders)
                    for name in folders:
                        (tmp_path / "out" / name).mkdir(exist_ok=True)
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failed
    assert OwnedFolder(tmp_path / "out", "experiment").listed() == {*folders}
    assert hidden(tmp_path) == []


def test_killed_at_any_step_the_next_start_goes_on_and_tidies_up(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def work() -> None:
        with holding(out, "inpaint") as owned:
            write(owned, a="new", b="new")
            owned.keep_only({"a.txt", "b.txt"})

    for step in every_kill(work):
        assert set(texts(out).values()) <= {"new", ""}, step
        with holding(out, "inpaint") as owned:
            assert owned.strangers() == [], step
        assert hidden(tmp_path) == [], step
        if out.exists() and step % 2:  # from the beginning, and from where it was stopped
            with holding(out, "inpaint") as owned:
                owned.clear()


def test_what_is_only_named_like_a_leftover_stays(tmp_path: Path) -> None:
    with holding(tmp_path, "evaluate") as owned:
        write(owned, a="ours")
        for name in (".metavoxel-1a2b3c4d-thesis.tex", "sub/.metavoxel-1a2b3c4d-a.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("mine")
        (tmp_path / ".metavoxel-1a2b3c4d-a.txt").write_text("half of ours")
    with holding(tmp_path, "evaluate"):
        assert not (tmp_path / ".metavoxel-1a2b3c4d-a.txt").exists()
    assert hidden(tmp_path) == [".metavoxel-1a2b3c4d-thesis.tex", "sub/.metavoxel-1a2b3c4d-a.txt"]


@pytest.mark.parametrize(
    "marker",
    [
        "",
        "[]",
        '{"command": 1}',
        '{"command": "ask", "files": ["../../home"]}',
        '{"command": "ask", "files": ["/etc/passwd"]}',
        '{"command": "ask", "files": [""]}',
        '{"command": "ask", "extra": 1}',
    ],
)
def test_a_damaged_or_hostile_marker_is_one_sentence(tmp_path: Path, marker: str) -> None:
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(MetaVoxelError, match=r"\.metavoxel\.json"), holding(tmp_path, "ask"):
        pass
    assert (tmp_path / MARKER).read_text() == marker


def test_a_link_is_followed_also_to_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("data")
    with holding(tmp_path / "out", "ask") as owned:
        write(owned, a="ours")
    assert (tmp_path / "out").is_symlink() and texts(tmp_path / "data") == {"a.txt": "ours"}
    with holding(tmp_path / "data", "ask") as owned:  # the same folder, by its other name
        assert owned.listed() == {"a.txt"}


@pytest.mark.parametrize("name", ["n" * 256, "a\0b"])
def test_a_name_that_cannot_be_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetaVoxelError, match="cannot be"), holding(tmp_path / name, "ask"):
        pass


def test_the_marker_says_who_wrote_what(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a", "b/c"):
        (tmp_path / name).write_text("")
    (tmp_path / MARKER).write_text(marker_text("ask", files_below(tmp_path)))
    told = json.loads((tmp_path / MARKER).read_text())
    assert told["command"] == "ask" and told["files"] == ["a", "b/c"]
    assert OwnedFolder(tmp_path, "ask").strangers() == []
