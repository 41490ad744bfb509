"""The demo's whole path, with a handful of people and a few steps."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from rich.console import Console

import metavoxel.demo.story as story
from metavoxel.demo import run_demo


def test_the_demo_tells_the_whole_story_and_can_be_repeated(tmp_path: Path, monkeypatch) -> None:
    settings = yaml.safe_load((Path(story.__file__).with_name("demo.yaml")).read_text())
    settings["training"]["autoencoder"].update(steps=4, validate_every=4)
    settings["training"]["joint"].update(steps=6, validate_every=3, copies=1)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(story, "STEPS", 3)
    monkeypatch.setattr(story, "STEPS_BACK", 3)
    monkeypatch.setattr(story, "SAMPLES", 3)
    out, quiet = tmp_path / "demo", Console(quiet=True)

    page = run_demo(out, quiet, subjects=24, config=config)

    text = page.read_text()
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert len(titles) == 9
    assert text.count("<img") == len(list((out / "figures").glob("*.png"))) == 9
    assert not re.search(r"https?://", text)
    model = (out / "model" / "denoiser.safetensors").stat().st_mtime_ns
    run_demo(out, quiet, subjects=24, config=config)
    assert (out / "model" / "denoiser.safetensors").stat().st_mtime_ns == model
