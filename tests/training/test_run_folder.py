"""Where a run may begin, and what it may be gone on with: nothing of others is taken for a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metavoxel.data.bids import Cohort
from metavoxel.data.records import Record
from metavoxel.errors import MetaVoxelError
from metavoxel.training.config import RunConfig
from metavoxel.training.run_folder import Folders, check_run, open_run, split_of_run
from tiny import tiny_config


@pytest.fixture
def config() -> RunConfig:
    return tiny_config()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.of(tmp_path / "model")


def begin(folders: Folders, config: RunConfig, cohort: Cohort) -> None:
    open_run(folders, config, None, cohort, config.training.split.make(cohort))


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Another process holds the lock, as a training that is alive does."""
    other = (
        "import sys, time; from pathlib import Path; from metavoxel.files.writing import locked\n"
        "with locked(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", other, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
        process.kill()


@pytest.mark.parametrize("resume", [False, True])
def test_nobody_is_told_to_remove_a_run_that_is_alive(
    resume: bool, folders: Folders, config: RunConfig, people: Cohort
) -> None:
    begin(folders, config, people)
    with held(folders.lock), pytest.raises(MetaVoxelError) as caught:
        check_run(folders, config, None, resume)
    assert "another process is training here. Wait for it" in str(caught.value)
    assert "remove it" not in str(caught.value)
    if resume:
        check_run(folders, config, None, resume)
    else:
        with pytest.raises(MetaVoxelError, match=r"unfinished run\. Continue it with --resume"):
            check_run(folders, config, None, resume)


def test_an_empty_folder_may_be_filled_and_a_full_one_not(
    folders: Folders, config: RunConfig
) -> None:
    folders.model.mkdir()
    check_run(folders, config, None, False)
    (folders.model / "notes.txt").write_text("mine")
    with pytest.raises(MetaVoxelError, match="model exists"):
        check_run(folders, config, None, False)


def test_a_link_is_followed(tmp_path: Path, config: RunConfig) -> None:
    disk = tmp_path / "disk"
    (disk / "here").mkdir(parents=True)
    (tmp_path / "model").symlink_to(disk / "here")
    folders = Folders.of(tmp_path / "model")
    assert folders.model == disk / "here" and folders.run == disk / "here.training"
    check_run(folders, config, None, False)


def test_a_folder_without_a_name_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Folders.of(Path()).run == tmp_path / "here.training"
    assert Folders.of(Path("sub") / "..").run == tmp_path / "here.training"
    assert Folders.of(Path("a/b")).run == Path("a/b.training")


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_others_is_no_run(resume: bool, folders: Folders, config: RunConfig) -> None:
    folders.run.mkdir()
    (folders.run / "thesis.tex").write_text("mine")
    with pytest.raises(MetaVoxelError, match=r"model\.training holds thesis\.tex, and no run"):
        check_run(folders, config, None, resume)
    assert (folders.run / "thesis.tex").read_text() == "mine"


def test_what_a_kill_left_before_the_settings_were_written_is_begun_anew(
    folders: Folders, config: RunConfig, people: Cohort
) -> None:
    begin(folders, config, people)
    folders.settings.unlink()
    (folders.run / ".metavoxel-0a1b2c3d-run.yaml").write_text("half")
    check_run(folders, config, None, False)
    folders.lock.write_text("")
    check_run(folders, config, None, False)


def test_a_file_in_the_place_of_the_run_is_said(folders: Folders, config: RunConfig) -> None:
    folders.run.write_text("mine")
    with pytest.raises(MetaVoxelError, match=r"model\.training is a file"):
        check_run(folders, config, None, False)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("run.yaml", b"\xff\xfe\0", r"run\.yaml: damaged, or not text"),
        ("run.yaml", b"", r"run\.yaml differs from what is given"),
        ("split.json", b"{", r"split\.json, line 1"),
        ("split.json", b"[]", r"split\.json"),
        ("split.json", b'{"train": ["a"], "validation": ["a"], "test": []}', "a stands more than"),
        ("data.sha256", b"\xff", r"data\.sha256: damaged, or not text"),
        ("data.sha256", b"ab", r"data\.sha256: damaged, or not a SHA-256"),
        ("data.sha256", b"0" * 64, "values have changed since this run began"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    name: str, data: bytes, says: str, folders: Folders, config: RunConfig, people: Cohort
) -> None:
    begin(folders, config, people)
    check_run(folders, config, None, True)
    assert split_of_run(folders, config, people).test
    (folders.run / name).write_bytes(data)
    with pytest.raises(MetaVoxelError, match=says):
        check_run(folders, config, None, True)
        split_of_run(folders, config, people)


@pytest.mark.parametrize("name", ["run.yaml", "split.json", "data.sha256"])
def test_a_folder_for_a_file_of_a_run_is_said(
    name: str, folders: Folders, config: RunConfig, people: Cohort
) -> None:
    begin(folders, config, people)
    (folders.run / name).unlink()
    (folders.run / name).mkdir()
    with pytest.raises(MetaVoxelError, match=f"{name}: this is a folder"):
        check_run(folders, config, None, True)
        split_of_run(folders, config, people)


@pytest.fixture
def people(tmp_path: Path, config: RunConfig) -> Cohort:
    records = tuple(
        Record(f"sub-{i:02d}", None, {"age": 20.0 + i, "image": tmp_path / f"{i}.nii.gz"})
        for i in range(20)
    )
    assert config.variables is not None
    return Cohort(tmp_path, config.variables, records, ())
