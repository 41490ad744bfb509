"""Does a model give its training people away? Copies among what it draws, and membership.

    python benchmarks/memorisation.py MODEL BIDS --out FOLDER

Images are drawn given nothing and compared with the model's training people, beside its test
people, who must have played no part in its training (docs/howto/memorisation.md). FOLDER gets
memorisation.json, and pairs.png with the closest few. The images are kept there as generated.npy,
and are used again if the model, the number and the seed are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from metavoxel.data.splits import read_split
from metavoxel.errors import MetaVoxelError
from metavoxel.evaluation.cohort import as_table, read_parts
from metavoxel.evaluation.figures.style import save_png
from metavoxel.evaluation.membership import answer_membership, reconstructed
from metavoxel.evaluation.memorisation import LATENT, Memorisation, memorisation, pairs_figure
from metavoxel.files.writing import atomic_write
from metavoxel.inference.ask import ask
from metavoxel.model import MetaVoxel
from metavoxel.model_folder import load_model

_CHUNK = 16  # images drawn between two lines of progress


def main(folder: Path, bids: Path, out: Path, count: int, seed: int, mirror: int | None) -> None:
    model = load_model(folder)
    parts = read_parts(bids, model.schema, read_split(folder / "split.json"), False)
    if not parts.training.records:
        raise MetaVoxelError(f"{bids}: none of the people who trained {folder} is in it.")
    training, held_out = (as_table(model.schema, part) for part in (parts.training, parts.test))
    out.mkdir(parents=True, exist_ok=True)
    image = next(iter(model.schema.images))
    version = hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()[:12]
    generated = drawn(model, image, out / f"generated-{version}-{seed}.npy", count, seed)
    real, unseen = training.images[image], held_out.images[image]
    found = memorisation(model, image, real, unseen, generated, seed, say, mirror)
    answers = answer_membership(model, training, held_out, seed)
    result = found.to_json() | {"answers_auc": {v: x.to_json() for v, x in answers.items()}}
    with atomic_write(out / "memorisation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    shown = reconstructed(model, image, real)
    figure = pairs_figure(found.spaces[LATENT], shown, generated, mirror=mirror)
    save_png(figure, out / "pairs.png")
    print_tables(found)
    print("\n| answers to | AUC, training against held-out |\n|---|---|")
    for v, score in answers.items():
        print(f"| {v} | {score} |")


def print_tables(found: Memorisation) -> None:
    print(f"{found.training} training people, {found.held_out} held-out people.\n")
    print(
        "| space | flagged | expected | least held-out | relative, generated | held-out "
        "| nearest is training | expected | p |\n|" + "---|" * 9
    )
    for name, space in found.spaces.items():
        generated, preference = len(space.generated.index), space.preference
        print(
            f"| {name} | {len(space.copies)} of {generated} | {generated * space.false_alarm:.1f} "
            f"| {space.threshold:.3f} | {np.median(space.generated.relative):.3f} "
            f"| {np.median(space.held_out.relative):.3f} "
            f"| {preference.share:.2f} | {preference.expected:.2f} | {preference.p:.2g} |"
        )
    print("\n| attack on | AUC, training against held-out |\n|---|---|")
    for name, score in found.membership.items():
        print(f"| {name} | {score} |")


def drawn(model: MetaVoxel, image: str, path: Path, count: int, seed: int) -> np.ndarray:
    """Images (count, C, *grid) drawn given nothing; a chunk that is on disk is not drawn again."""
    done = np.load(path) if path.is_file() else None
    while done is None or len(done) < count:
        start = 0 if done is None else len(done)
        chunk = ask(model, [image], {}, 1, _CHUNK, seed + start).samples[image][0].numpy()
        done = chunk if done is None else np.concatenate([done, chunk])
        with atomic_write(path) as temporary:
            np.save(temporary, done)
        print(f"drawn {len(done)}/{count}", file=sys.stderr)
    return done[:count]


def say(done: int, total: int) -> None:
    print(f"losses {done}/{total}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bids", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mirror", type=int, help="the axis along which training flipped images")
    a = parser.parse_args()
    main(a.model, a.bids, a.out, a.images, a.seed, a.mirror)
