"""What a model folder says about itself: card, calibration, self-test, preprocessing, split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel

from metavoxel.data.bids import Cohort
from metavoxel.data.splits import Split
from metavoxel.inference.ask import ask_encoded
from metavoxel.inference.calibration import calibrate
from metavoxel.inference.selftest import selftest_record
from metavoxel.model import MetaVoxel
from metavoxel.model_files import Calibrations, Preprocessing, SelfTest, json_text
from metavoxel.preprocess.preparation import Preparation
from metavoxel.schema import Image, Number
from metavoxel.training.answers import held_out_scores
from metavoxel.training.config import RunConfig
from metavoxel.training.examples import Examples
from metavoxel.version import __version__

# Means, standard deviations if they are stated, and what is true, NaN where it is not known; (n,).
Stated = tuple[np.ndarray, np.ndarray | None, np.ndarray]

_CALIBRATION_SAMPLES, _CALIBRATION_STEPS = 16, 20
_CALIBRATION_RECORDS = 64  # at most: sampling for ten thousand would take longer than training


def model_files(
    model: MetaVoxel,
    config: RunConfig,
    parts: Mapping[str, Cohort],
    split: Split,
    examples: Mapping[str, Examples],
    autoencoder: Path | None,
    preparation: Preparation,
    out_of_fold: Mapping[str, Stated],
) -> dict[str, str]:
    """The text files that go into the model folder beside its weights. `out_of_fold` are answers
    about training subjects given the images, of networks that were not trained on them."""
    validation = examples["validation"]
    stated = out_of_fold or point_answers(model, validation)
    scores = _calibration(model, validation, stated)
    return {
        "calibration.json": _text(scores),
        "selftest.json": _text(SelfTest.model_validate(selftest_record(model))),
        "preprocessing.json": _text(
            Preprocessing.model_validate({**_voxels(model), **preparation.to_json()})
        ),
        "split.json": json_text(asdict(split)),
        "training.yaml": yaml.safe_dump(
            config.model_dump(mode="json", by_alias=True), sort_keys=False
        ),
        "README.md": _card(model, parts, scores, autoencoder),
    }


def _calibration(
    model: MetaVoxel, examples: Examples, stated: Mapping[str, Stated]
) -> Calibrations:
    """Scores of the answers given the images, on the validation split; none without a question."""
    scalars = _answerable(model)
    records = min(len(examples), _CALIBRATION_RECORDS) if scalars else 0
    scores = (
        held_out_scores(model, examples, _CALIBRATION_SAMPLES, _CALIBRATION_STEPS, records)
        if records
        else {}
    )
    question = f"{', '.join(scalars)} | {', '.join(model.schema.images)}" if scalars else None
    fitted = {v: calibrate(*x).to_json() for v, x in stated.items() if not np.isnan(x[2]).all()}
    return Calibrations(
        records=records,
        question=question,
        samples=_CALIBRATION_SAMPLES if model.law is None else 0,
        steps=_CALIBRATION_STEPS if model.law is None else 0,
        scores=scores,  # type: ignore[arg-type]  # pydantic makes its classes of them
        one_evaluation=fitted,  # type: ignore[arg-type]  # likewise
    )


def _answerable(model: MetaVoxel) -> list[str]:
    """The scalars that the model can be asked given the images."""
    return [v for v in model.schema.scalars if model.supports([v], model.schema.images)]


def point_answers(model: MetaVoxel, examples: Examples) -> dict[str, Stated]:
    """What one evaluation states of continuous variables given the images of validation records."""
    rows = torch.stack([examples.observed[v] for v in model.schema.images]).all(0).nonzero()[:, 0]
    asked = [v for v in _answerable(model) if v in model.schema.numbers]
    answers = model.law is not None or model.config.sampling.point == "one_evaluation"
    if not (answers and len(rows) and asked):
        return {}
    z0, observed = examples.batch(rows, torch.zeros_like(rows))
    known = {v: z0[v].to(model.device) for v in model.schema.images}
    drawn = ask_encoded(model, asked, known, len(rows), 0, seed=0)
    truth = model.decode({v: z0[v] for v in asked})
    return {
        v: (
            drawn.point[v].numpy(),
            drawn.numbers[v].std if v in drawn.numbers else None,
            truth[v].masked_fill(~observed[v], torch.nan).numpy(),
        )
        for v in asked
    }


def _voxels(model: MetaVoxel) -> dict[str, Any]:
    """How every image is placed on the model's grid."""
    return {
        "images": {v: kind.model_dump(mode="json") for v, kind in model.schema.images.items()},
        "orientation": "RAS",
        "intensity": "0 to 0, 99.5th percentile of the positive voxels to 1, clipped",
    }


def _card(
    model: MetaVoxel,
    parts: Mapping[str, Cohort],
    scores: Calibrations,
    autoencoder: Path | None,
) -> str:
    """The model card, in Markdown."""
    source = "trained with it" if autoencoder is None else f"taken over from {autoencoder}"
    rows = "\n".join(
        f"| {v} | {kind.kind} | {_domain(kind)} | {_count(parts['train'], v)} |"
        for v, kind in model.schema.variables.items()
    )
    weights = sum(p.numel() for p in model.denoiser.parameters()) / 1e6
    return f"""# MetaVoxel model

A joint diffusion model of {", ".join(model.schema)}, written by metavoxel {__version__}.
{_questions(model)}

**Not a medical device.** For research only. It answers for scans prepared like its training data
(preprocessing.json) from subjects like its training cohort, and for no others.

## Data
{len(parts["train"].subjects)} subjects to train, {len(parts["validation"].subjects)} to validate
({len(parts["train"].records)} and {len(parts["validation"].records)} records). The subjects of
each split are in split.json; the test subjects were not used. The autoencoder was {source}.

| variable | kind | range or labels | observed in training |
|---|---|---|---|
{rows}

{_measured(scores)}
## Limits
- {weights:.1f} M weights trained on {len(parts["train"].subjects)} subjects: with few it
  overfits.
- Memorisation of training images has not been measured for this model: do not share generated
  images of private cohorts before it has been.
- Training settings, those that the paper leaves open too, are in training.yaml and config.yaml.
"""


def _questions(model: MetaVoxel) -> str:
    """What the model can be asked, with an example."""
    images, scalars = ", ".join(model.schema.images), ", ".join(model.schema.scalars)
    if answerable := _answerable(model):
        said = "It answers any question about these variables from any subset of them"
        example = f'"{answerable[0]} | {next(iter(model.schema.images))}=scan.nii.gz"'
    else:
        given = f" given all of {scalars}, or none of them" if scalars else ""
        said = f"It draws {images}{given}, and can be asked nothing else"
        example = f'"{images}" --samples 8 --out out/'
    return f"{said}:\n\n    metavoxel ask THIS_FOLDER {example}"


def _measured(scores: Calibrations) -> str:
    """The section on the answers given the images, if there are any."""
    if not scores.scores:
        return ""
    rows = "\n".join(
        f"| {v} | {', '.join(f'{k} {_number(x)}' for k, x in values.items())} |"
        for v, values in scores.scores.items()
    )
    drawn = f"{scores.samples} samples, {scores.steps} steps"
    how = drawn if scores.samples else "in one evaluation"
    return f"""## Measured on the validation split
All scalars asked given the images, {how}, on {scores.records} records. The epoch was chosen on the
same records, so read these as optimistic.

| variable | scores |
|---|---|
{rows}

calibration.json also holds, for every continuous variable, conformal quantiles of the
one-evaluation answers, and the line of their bias: of networks cross-fitted to the training
subjects, where there were enough of them, else on these records. The temperatures of what the
images say (posterior.json) come from the same networks.
"""


def _domain(kind: Any) -> str:
    if isinstance(kind, Image):
        return f"{'x'.join(map(str, kind.shape))} at {'x'.join(f'{s:g}' for s in kind.spacing)} mm"
    if isinstance(kind, Number):
        low_high = f"{kind.range[0]:g} to {kind.range[1]:g}" if kind.range else "from the data"
        return f"{low_high} {kind.unit or ''}".strip()
    return ", ".join(kind.labels)


def _count(cohort: Cohort, name: str) -> int:
    return sum(name in record.values for record in cohort.records)


def _number(x: float | None) -> str:
    return "n/a" if x is None or not math.isfinite(x) else f"{x:.3g}"


def _text(data: BaseModel) -> str:
    return json_text(data.model_dump(mode="json"))
