"""The figures of an experiment's report: the paper's, and how well every system does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from metavoxel.evaluation.experiment.anatomy import GENERATED, MEASURED, anatomy_rows
from metavoxel.evaluation.experiment.generated import free_images, group_rows
from metavoxel.evaluation.experiment.tables import TITLES, Row, first_questions
from metavoxel.evaluation.experiment.work import Experiment
from metavoxel.evaluation.figures import images as pictures
from metavoxel.evaluation.figures import systems
from metavoxel.evaluation.figures.anatomy import anatomy_figure
from metavoxel.evaluation.figures.trajectory import trajectory
from metavoxel.evaluation.measures import HEADLINE
from metavoxel.model import best_device
from metavoxel.model_folder import load_model

_SHOWN = 6  # images in a row
_INPAINTED = 4


def figures_of(
    experiment: Experiment, rows: Sequence[Row], images: Sequence[Row]
) -> dict[str, Figure]:
    """By title. What is not done yet is not drawn."""
    out: dict[str, Figure] = {}
    if rows:
        out["Every system"] = systems.ablation(_headlines(rows), experiment.config.reference)
    if any("dispersion" in row["scores"] for row in rows):
        out["Calibration"] = systems.dispersion(rows)
    run = experiment.runs[0]
    parts = zip(("training", "validation", "test"), experiment.tables(run), strict=True)
    out["Figure C.4: demographics"] = systems.demographics(dict(parts), experiment.schema)
    if by_group := group_rows(experiment):
        out["Figure D.5: images by group"] = systems.by_group(by_group)
    if anatomy := anatomy_rows(experiment):
        out[f"Anatomy along {anatomy[0]['along']}"] = anatomy_figure(
            experiment.schema, anatomy, (MEASURED, GENERATED)
        )
    return out | _of_models(experiment)


def _headlines(rows: Sequence[Row]) -> list[dict[str, object]]:
    """A row per system: the headline of the first question of each scalar."""
    asked = first_questions(rows)
    out: dict[str, dict[str, object]] = {}
    for row in rows:
        if asked[row["variable"]] == row["question"]:
            name = next(k for k in HEADLINE if k in row["scores"])
            title = f"{row['variable']}: {TITLES[name].title}"
            of_system = out.setdefault(row["system"], {"system": row["system"]})
            of_system[title] = row["scores"][name]
    return list(out.values())


def _of_models(experiment: Experiment) -> dict[str, Figure]:
    """Figures 2, B.1 to B.3 of the reference's model, in the first fold."""
    plan, run = experiment.config.systems[experiment.config.reference], experiment.runs[0]
    if plan.training is None or not experiment.model(plan.training, run).exists():
        return {}
    model = load_model(experiment.model(plan.training, run), best_device())
    image, (_, _, test) = next(iter(model.schema.images)), experiment.tables(run)
    out = {"Figure 2: from noise to a record": trajectory(model, run.seed)}
    if drawn := _drawn(experiment, image):
        real = [test.images[image][i, 0] for i in range(min(_SHOWN, len(test)))]
        captions = pictures.captions(
            experiment.schema, {v: x[:_SHOWN] for v, x in test.scalars.items()}
        )
        out["Figure B.1: unconditional samples"] = pictures.montage(
            {"unseen subjects": real, **drawn}, {"unseen subjects": captions}
        )
    some = torch.from_numpy(test.images[image][:_INPAINTED])
    side = {3: 0, 2: 1}[model.schema.images[image].spatial_dims]  # from left to right
    drawn_halves = pictures.inpainted(model, some, run.seed, axis=side)
    out["Figure B.3: one half from the other"] = drawn_halves
    return out


def _drawn(experiment: Experiment, image: str) -> Mapping[str, Sequence[np.ndarray]]:
    plan, run = experiment.config.images, experiment.runs[0]
    out = {}
    for name in plan.trainings if plan else ():
        found = free_images(experiment, name, run, image)
        if found is not None:
            out[name] = list(found[:_SHOWN, 0])
    return out
