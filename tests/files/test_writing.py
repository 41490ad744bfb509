"""Writing: whole or not at all, killed at any step, into what a link points to, into full disks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from killed import every_kill, full_disk, hidden, names, refused_in_child
from metavoxel.errors import MetaVoxelError
from metavoxel.files import writing
from metavoxel.files.writing import (
    BusyError,
    atomic_folder,
    atomic_write,
    locked,
    recover,
    remove_leftovers,
)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder takes the place of another: where the system can exchange them, or cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(writing, "_exchanged", lambda a, b: False)
    return request.param


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder) as new:
        (new / "inside").mkdir()
        for name in ("a.txt", "inside/b.txt"):
            (new / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text() for p in found}


def whole(text: str) -> dict[str, str]:
    return {"a.txt": text, "inside/b.txt": text}


def test_a_folder_killed_at_any_step_is_the_old_one_or_the_new_one(
    tmp_path: Path, way: str
) -> None:
    fill(tmp_path / "out", "old")
    for step in every_kill(lambda: fill(tmp_path / "out", "new")):
        if way == "exchange":  # nobody ever sees it gone
            assert texts(tmp_path / "out") in (whole("old"), whole("new")), step
        recover(tmp_path / "out")
        assert texts(tmp_path / "out") in (whole("old"), whole("new")), step
        assert [p.name for p in tmp_path.iterdir()] == ["out"], step
    assert texts(tmp_path / "out") == whole("new")


def test_a_first_folder_killed_at_any_step_is_absent_or_whole(tmp_path: Path) -> None:
    def work() -> None:
        fill(tmp_path / "out", "new")

    for step in every_kill(work):
        recover(tmp_path / "out")
        assert texts(tmp_path) in ({}, {f"out/{k}": x for k, x in whole("new").items()}), step
        assert {p.name for p in tmp_path.iterdir()} <= {"out"}, step
        if (tmp_path / "out").exists():
            break


def test_a_file_killed_at_any_step_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def work() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("new")

    for step in every_kill(work):
        assert path.read_text() in ("old", "new"), step
        remove_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"], step


def test_what_failed_between_two_renames_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    monkeypatch.setattr(writing, "_exchanged", lambda a, b: False)
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MetaVoxelError, match="out cannot be written"):
        fill(tmp_path / "out", "new")
    assert texts(tmp_path) == {f"out/{k}": x for k, x in whole("old").items()}


def test_a_folder_made_anew_between_a_kill_and_the_next_start_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    monkeypatch.setattr(writing, "_exchanged", lambda a, b: False)
    for _ in every_kill(lambda: fill(tmp_path / "out", "new")):
        if not (tmp_path / "out").exists():
            break
        recover(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    recover(tmp_path / "out")
    assert set(texts(tmp_path).values()) >= {"old", "new", "mine"}


STRANGERS = [".metavoxel-1a2b3c4d-out", ".metavoxel-previous-out", ".metavoxel-0000ffff-x-out"]


@pytest.mark.parametrize("name", STRANGERS)
def test_a_folder_that_is_only_named_like_ours_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    (tmp_path / name / "new").mkdir()
    (tmp_path / name / "new" / "figure.svg").write_text("mine")
    fill(tmp_path / "out", "new")
    fill(tmp_path / "out", "newer")
    assert texts(tmp_path / name) == {"thesis.tex": "mine", "new/figure.svg": "mine"}


def test_one_folder_s_start_leaves_what_is_staged_for_another(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a-out") as new:
        (new / "a.txt").write_text("a")
        fill(tmp_path / "out", "new")
        recover(tmp_path / "a-out")  # alive, so it is left alone
        assert texts(new) == {"a.txt": "a"}
    assert texts(tmp_path / "a-out") == {"a.txt": "a"}


@pytest.mark.parametrize("there", [True, False], ids=["to a folder", "to nothing yet"])
def test_a_link_is_followed(tmp_path: Path, there: bool, way: str) -> None:
    target = tmp_path / "disk" / "data"
    if there:
        target.mkdir(parents=True)
    (tmp_path / "out").symlink_to(target)
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink() and texts(target) == whole("new")
    assert names(tmp_path) == ["disk", "out"]
    assert names(tmp_path / "disk") == ["data"]


def test_links_in_a_circle_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MetaVoxelError, match="a cannot be written"):
        fill(tmp_path / "a", "new")


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "脳" * 85, f"{'a' * 247}.nii.gz"])
def test_a_name_of_255_bytes_is_written(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name, "old")
    fill(tmp_path / name, "new")
    assert texts(tmp_path / name) == whole("new")
    file = tmp_path / "f" / name
    with atomic_write(file) as temporary:
        assert temporary.name.endswith(name[-10:])
        temporary.write_text("new")
    assert file.read_text() == "new"


def test_a_name_of_256_bytes_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MetaVoxelError, match="cannot be written"):
        fill(tmp_path / ("n" * 256), "new")
    with (
        pytest.raises(MetaVoxelError, match="cannot be written"),
        atomic_write(tmp_path / ("n" * 256)) as temporary,
    ):
        temporary.write_text("new")
    assert not names(tmp_path)


def test_a_disk_that_fills_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")

    assert refused_in_child(lambda: fill(tmp_path / "out", "x" * 1000), lambda: full_disk(500))
    assert texts(tmp_path) == {f"out/{k}": x for k, x in whole("old").items()}
    assert hidden(tmp_path) == []


def test_a_parent_that_may_not_be_written_is_one_sentence() -> None:
    def prepare() -> None:
        if os.getuid() == 0:  # who may write everywhere
            os.setuid(65534)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        fill(place / "out", "old")
        Path(folder).chmod(0o755)
        place.chmod(0o555)
        try:
            assert refused_in_child(lambda: fill(place / "out", "new"), prepare)
            assert refused_in_child(lambda: fill(place / "new", "new"), prepare)
        finally:
            place.chmod(0o755)
        assert texts(place) == {f"out/{k}": x for k, x in whole("old").items()}


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    before = os.umask(mask)
    try:
        fill(tmp_path / "out", "new")
        with atomic_write(tmp_path / "f") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    found = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("out", "out/a.txt", "f")]
    assert found == [folder, file, file]


def test_weights_have_the_permissions_of_other_files(tmp_path: Path) -> None:
    from torch import nn

    from metavoxel.files.weights import write_weights

    write_weights(nn.Linear(1, 1), tmp_path / "w.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_was_private_stays_so(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").chmod(0o700)
    fill(tmp_path / "out", "new")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_a_link_where_a_file_is_written_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "f").symlink_to("theirs")
    with atomic_write(tmp_path / "f") as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "f").read_text() == "ours" and not (tmp_path / "f").is_symlink()


def test_a_lock_is_one_process_s_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "busy"):
        with pytest.raises(BusyError, match=r"^busy$"), locked(path, "busy"):
            pass
        assert path.exists()
    assert not path.exists()
    with locked(path, "busy"):
        pass


def test_a_shared_lock_is_shared_and_kept_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "busy", shared=True):
        with locked(path, "busy", shared=True):
            pass
        with pytest.raises(BusyError), locked(path, "busy"):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_lock_that_is_waited_for_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(tmp_path / "lock", "busy", wait=True):
                inside += 1
                most = max(most, inside)
                inside -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert most == 1


def test_a_lock_file_of_others_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("mine")
    with locked(tmp_path / "lock", "busy"):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


def test_a_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from metavoxel.files.writing import locked\n"
        "with locked(Path(sys.argv[1]), 'busy'): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    assert done.returncode == -9
    with locked(tmp_path / "lock", "busy"):
        pass
