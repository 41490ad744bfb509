"""Answers of fixed weights, frozen before code moves: moves leave them as they are.

python tests/golden/test_golden.py      # freezes them again, where they are meant to change
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # as a script

from networks import diffusing, ours, paper, questions  # noqa: E402 - after the path that it needs

ENGINES = {"ours": ours, "diffusing": diffusing, "paper": paper}
FROZEN = Path(__file__).parent / "answers"


def answered(engine: str) -> dict[str, np.ndarray]:
    asked = questions(ENGINES[engine]())
    return {f"{q}: {v}": x for q, ask in asked.items() for v, x in ask().items()}


@pytest.mark.parametrize("engine", [*ENGINES])
def test_answers_are_those_that_were_frozen(engine: str) -> None:
    now = answered(engine)
    with np.load(FROZEN / f"{engine}.npz") as file:
        then = dict(file)
    assert now.keys() == then.keys()
    for name, x in then.items():
        if x.dtype.kind in "US":
            assert x.tolist() == now[name].tolist(), name
        else:
            np.testing.assert_allclose(now[name], x, rtol=1e-4, atol=2e-4, err_msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FROZEN.mkdir(exist_ok=True)
    for name in ENGINES:
        np.savez_compressed(FROZEN / f"{name}.npz", **answered(name))  # type: ignore[arg-type]  # numpy's stub: one name is `allow_pickle`
