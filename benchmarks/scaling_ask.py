"""What scaling.py asks of a trained model, under the source that trained it.

    PYTHONPATH=OLDER/src python benchmarks/scaling_ask.py MODEL REQUESTS.npz ANSWERS.npz

Only what today's source and that of the tag before-coherent-law both have is used here. Requests
are the arrays of subjects, and in `requests` as JSON what is asked: a list of
{asked, known, fixed, rows, draws}, and of images {ages, labels, count, at_age, seed}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from metavoxel.evaluation.cohort import Table
from metavoxel.evaluation.membership import answer_membership, image_membership, reconstructed
from metavoxel.inference.ask import ask, ask_encoded
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model

LEVELS = (np.arange(200) + 0.5) / 200  # of stated quantiles
_IMAGES = 64  # encoded at once

Arrays = Mapping[str, np.ndarray]


def answers(model: MetaVoxel, raw: Arrays, requests: list[dict[str, Any]]) -> list[np.ndarray]:
    """By request: probabilities (n, K) of a label; of a number its draws, or the quantiles at
    `LEVELS` of what is stated, (n, m)."""
    with torch.inference_mode():
        parts = torch.from_numpy(raw["image"]).split(_IMAGES)
        z0 = {"image": torch.cat([model.encode({"image": x})["image"] for x in parts])}
        scalars = [v for v in model.schema.scalars if v in raw]
        z0 |= model.encode({v: torch.from_numpy(raw[v]) for v in scalars})
        return [_answer(model, z0, r) for r in requests]


def _answer(
    model: MetaVoxel, z0: Mapping[str, torch.Tensor], request: dict[str, Any]
) -> np.ndarray:
    v, n, draws = request["asked"], request["rows"], request["draws"]
    known = {w: z0[w][:n] for w in request["known"] if w not in request["fixed"]}
    for w, x in request["fixed"].items():
        values = np.full(n, int(x) if w in model.schema.categorical else float(x))
        known |= model.encode({w: torch.from_numpy(values)})
    if draws:
        settings = model.config.sampling.model_copy(update={"point": "samples"})
        drawn = ask_encoded(model, [v], known, n, draws, 0, settings).samples[v].double().numpy()
        if v not in model.schema.categorical:
            return drawn
        labels = np.arange(len(model.schema.categorical[v].labels))
        counts = (drawn[:, :, None] == labels).sum(1) + 1  # as if each had been drawn once more
        return counts / counts.sum(1, keepdims=True)
    if v in model.schema.categorical:
        p = ask_encoded(model, [v], known, n, 0, 0).point[v].double().numpy()
        return p / p.sum(1, keepdims=True)
    return _quantiles(model, v, known, n)


def _quantiles(model: MetaVoxel, v: str, known: Mapping[str, torch.Tensor], n: int) -> np.ndarray:
    """Of what one evaluation states of a number: those of a mixture, or of a normal."""
    if getattr(model, "law", None) is not None:
        return ask_encoded(model, [v], dict(known), n, 0, 0).numbers[v].quantiles(LEVELS)
    from metavoxel.inference.spread import (  # type: ignore[import-not-found]  # of the older source alone
        stated_quantiles,
        stated_spread,
    )

    stated = stated_quantiles(model, [v], known, n, torch.from_numpy(LEVELS), 0)
    if v in stated:
        return stated[v].numpy()
    mean = ask_encoded(model, [v], dict(known), n, 0, 0).point[v].double().numpy()
    spread = stated_spread(model, [v], known, n, 0)[v].double().numpy()
    return mean[:, None] + spread[:, None] * norm.ppf(LEVELS)


def images(model: MetaVoxel, raw: Arrays, plan: dict[str, Any]) -> dict[str, np.ndarray]:
    """Generated images, at given ages and of nobody; subjects' images through the autoencoder; the
    AUC of membership of `training` among as many `held_out`."""
    out, labels = {}, {v: torch.tensor([x]) for v, x in plan["labels"].items()}
    for age in plan["ages"]:
        known = {"age": torch.tensor([float(age)]), **labels}
        seed = plan["seed"] + int(age)
        drawn = ask(model, ["image"], known, 1, plan["at_age"], seed).samples["image"]
        out[f"images {age:g}"] = drawn[0].numpy()
        out[f"subjects {age:g}"] = reconstructed(model, "image", raw[f"subjects {age:g}"])
    unconditional = ask(model, ["image"], {}, 1, plan["count"], plan["seed"]).samples["image"]
    out["generated"] = unconditional[0].numpy()
    out["training"] = reconstructed(model, "image", raw["training"])
    few = min(len(raw["training"]), len(raw["held_out"]))
    sets = raw["training"][:few], raw["held_out"][:few]
    out["AUC image"] = np.array(image_membership(model, "image", *sets, plan["seed"]).value)
    if getattr(model, "law", None) is not None or model.config.sampling.point == "one_evaluation":
        training, held_out = (_table(raw, part, few, model) for part in ("training", "held_out"))
        found = answer_membership(model, training, held_out, plan["seed"])
        out |= {f"AUC {v}": np.array(score.value) for v, score in found.items()}
    return out


def _table(raw: Arrays, part: str, n: int, model: MetaVoxel) -> Table:
    scalars = {v: raw[f"{part} {v}"][:n].astype(float) for v in model.schema.scalars}
    return Table({"image": raw[part][:n]}, scalars)


def main(folder: Path, requests: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with np.load(requests) as file:
        raw = dict(file)
    asked = json.loads(str(raw.pop("requests")))
    model = load_model(folder)
    if isinstance(asked, list):
        found = {str(i): x for i, x in enumerate(answers(model, raw, asked))}
    else:
        found = images(model, raw, asked)
    np.savez(out, **found)  # type: ignore[arg-type]  # numpy's stub: one name is `allow_pickle`


if __name__ == "__main__":
    main(*(Path(each) for each in sys.argv[1:4]))
