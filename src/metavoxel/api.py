"""The Python interface of a trained model: load it, ask it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from metavoxel.data.images import (
    Grid,
    Scan,
    check_values,
    marked,
    read_marks,
    read_scan,
    resample,
    touched,
)
from metavoxel.diffusion.config import SamplingConfig
from metavoxel.encoding.scalars import label_indices
from metavoxel.errors import MetaVoxelError
from metavoxel.files.json import read_model
from metavoxel.inference import ask as asking
from metavoxel.inference.answers import (
    Answer,
    Answers,
    CategoricalAnswer,
    ContinuousAnswer,
    ImageAnswer,
)
from metavoxel.inference.counterfactual import counterfactual
from metavoxel.inference.inpaint import inpaint
from metavoxel.inference.limits import (
    MOST_RESAMPLINGS,
    check_memory,
    check_samples,
    check_seed,
)
from metavoxel.inference.query import Query, file_path, parse_query
from metavoxel.inference.stated_prior import check_prior
from metavoxel.model import MetaVoxel, best_device
from metavoxel.model_files import Preprocessing
from metavoxel.model_folder import load_model
from metavoxel.posterior.prior import ScalarPrior
from metavoxel.preprocess.preparation import Preparation
from metavoxel.schema import Image, Schema
from metavoxel.settings import explain

# RePaint's repetitions for inpainting. On held-out halves of the simulated cohort 2 come nearest to
# what is there; many drive the filling apart.
RESAMPLINGS = 2

_FARTHEST = 2.0  # encoded: half the width of the range beyond its ends


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model that answers questions.

    Values are given as the user has them: images as file paths or arrays (channels, ...) in
    [0, 1] on the model's grid, numbers in the variable's unit, labels as text.
    """

    network: MetaVoxel
    preparation: Preparation = field(default_factory=Preparation)
    any_preparation: bool = False

    @property
    def schema(self) -> Schema:
        return self.network.schema

    @property
    def sampling(self) -> SamplingConfig:
        return self.network.config.sampling

    def ask(
        self,
        question: str,
        given: Mapping[str, Any] | None = None,
        samples: int | None = None,
        seed: int = 0,
        prior: Mapping[str, Mapping[str, float]] | None = None,
        **settings: Any,
    ) -> Answers:
        """Answer a question such as "age, sex | image=scan.nii.gz".

        `given` adds values to those in the text. Scalars are answered by their distributions, in
        one network evaluation; `samples` joint draws are made besides (default: of images as many
        as the model's, else none; of a model whose scalars diffuse always as many as the model's).
        `prior` holds the label frequencies of your population (prior shift), as {"diagnosis":
        {"CN": 0.8, "MCI": 0.15, "AD": 0.05}}, instead of the training set's. `settings` change the
        model's sampling for this question, as steps=25. Raises MetaVoxelError if the question does
        not fit the model.
        """
        parsed = parse_query(question)
        twice = [v for v in given or {} if v in parsed.given]
        if twice:
            raise MetaVoxelError(f"{twice[0]} is given twice. Give it once.")
        query = Query(parsed.asked, {**parsed.given, **(given or {})}).check(self.schema)
        sampling, seed = self._settings(settings), check_seed(seed)
        count = check_samples(sampling.samples if samples is None else samples)
        images = [v for v in query.asked if v in self.schema.images]
        if images and count < 1:
            raise MetaVoxelError(f"{images[0]} can only be sampled; ask with samples of 1 or more.")
        if count < 1 and self._only_samples(sampling):
            raise MetaVoxelError("This model answers by sampling; ask with samples of 1 or more.")
        for v in images:
            check_memory(count, self.schema.images[v], len(images))
        scans = self._scans(query.given)
        known = self._known(query.given, scans)
        if not images and samples is None and self._needs_no_samples(query, sampling):
            count = 0
        stated = None if prior is None else self._prior(prior)
        drawn = asking.ask(self.network, query.asked, known, 1, count, seed, sampling, prior=stated)
        grid = next((s.grid for s in scans.values()), None)
        return Answers({v: self._answer(v, drawn, grid) for v in query.asked})

    def sample(
        self, n: int, given: Mapping[str, Any] | None = None, seed: int = 0, **settings: Any
    ) -> Answers:
        """Draw n whole records: every variable that is not given, jointly."""
        given = dict(given or {})
        asked = [v for v in self.schema if v not in given]
        return self.ask(", ".join(asked), given, n, seed, **settings)

    def inpaint(
        self,
        image: str | Path | np.ndarray,
        mask: str | Path | np.ndarray,
        given: Mapping[str, Any] | None = None,
        samples: int = 1,
        seed: int = 0,
        variable: str | None = None,
        **settings: Any,
    ) -> ImageAnswer:
        """Draw the voxels under the mask, given all others and what else is known.

        `mask` is true (non-zero) where the image is to be filled; a file on the image's own grid,
        or an array on the model's. `variable` names the image where the schema has several.
        """
        name = self._image(variable)
        samples, seed = check_samples(samples, least=1), check_seed(seed)
        check_memory(samples, self.schema.images[name])
        scan, kind = self._scan(name, image), self.schema.images[name]
        masked, marks = _mask(mask, kind, scan)
        query = Query((name,), dict(given or {})).check(self.schema)
        known = self._known(query.given, self._scans(query.given))
        sampling = self._settings({"resamplings": RESAMPLINGS, **settings})
        voxels = torch.from_numpy(scan.array)
        filled = inpaint(self.network, name, voxels, masked, known, samples, seed, sampling)
        return ImageAnswer(filled.numpy(), scan.grid, scan, marks)

    def counterfactual(
        self,
        record: Mapping[str, Any],
        set: Mapping[str, Any],
        variable: str | None = None,
        **settings: Any,
    ) -> ImageAnswer:
        """The image of `record` as it would be with the values in `set`, all else the same.

        `record` holds the image and whatever is known of the subject. Values that it lacks are
        first estimated from the image, in one evaluation.
        """
        name = self._image(variable)
        if name not in record:
            raise MetaVoxelError(f"A counterfactual starts from a record with {name}; give one.")
        sampling = self._settings(settings)
        if sampling.conditioner != "exact":
            raise MetaVoxelError(
                "A counterfactual needs the exact conditioner; this model repaints."
            )
        changed = Query((name,), dict(set)).check(self.schema).given
        fixed = [v for v in changed if v in self.schema.images]
        if fixed:
            raise MetaVoxelError(f"{fixed[0]} is an image; a counterfactual sets scalars.")
        others = {v: x for v, x in record.items() if v != name}
        factual = Query((name,), others).check(self.schema).given
        _check_changed(factual, changed)
        scan = self._scan(name, record[name])
        known = self._known(factual, self._scans(factual))
        lacking = [v for v in changed if v not in known]
        image = torch.from_numpy(scan.array)[None]
        if lacking:
            if self._only_samples(sampling):
                raise MetaVoxelError(
                    f"Say what {lacking[0]} is now; this model cannot read it off."
                )
            read = asking.ask(self.network, lacking, {name: image}, 1, 0, seed=0)
            known |= {v: x if x.ndim == 1 else x.argmax(-1) for v, x in read.point.items()}
        after = self._known(changed, {})
        out = counterfactual(self.network, name, image, known, after, sampling)
        return ImageAnswer(out.numpy(), scan.grid, scan)

    def _settings(self, changes: Mapping[str, Any]) -> SamplingConfig:
        unknown = [k for k in changes if k not in SamplingConfig.model_fields]
        if unknown:
            raise MetaVoxelError(
                f'There is no sampling setting "{unknown[0]}"; there are '
                f"{', '.join(SamplingConfig.model_fields)}."
            )
        try:
            sampling = SamplingConfig.model_validate({**self.sampling.model_dump(), **changes})
        except ValidationError as error:
            raise explain(error, "sampling") from None
        self.network.config.model_copy(update={"sampling": sampling}).check()
        most = {"steps": self.network.config.diffusion.T, "resamplings": MOST_RESAMPLINGS}
        for name in most.keys() & changes.keys():
            if getattr(sampling, name) > most[name]:
                raise MetaVoxelError(
                    f"{name} is {getattr(sampling, name):,}; this model takes at most "
                    f"{most[name]:,}. Ask for fewer."
                )
        return sampling

    def _needs_no_samples(self, query: Query, sampling: SamplingConfig) -> bool:
        """One evaluation gives the joint posterior of the scalars; where they diffuse, of a
        single categorical."""
        return self.network.law is not None or (
            sampling.point == "one_evaluation"
            and (len(query.asked) == 1 and query.asked[0] in self.schema.categorical)
        )

    def _only_samples(self, sampling: SamplingConfig) -> bool:
        """Whether an answer about scalars takes samples."""
        return self.network.law is None and sampling.point == "samples"

    def _prior(self, stated: Mapping[str, Mapping[str, float]]) -> ScalarPrior:
        """The cohort's joint distribution of scalars with other frequencies of labels."""
        law = self.network.law
        if law is None:
            raise MetaVoxelError("This model has no prior that could be changed: scalars diffuse.")
        places = [*law.labels]
        shares = check_prior(stated, self.schema)
        return law.prior.reweighed({places.index(v): x for v, x in shares.items()})

    def _image(self, name: str | None) -> str:
        if not self.schema.images:
            raise MetaVoxelError("This model has no images. Ask for its other variables.")
        if name is None and len(self.schema.images) > 1:
            raise MetaVoxelError(f"Name the image: one of {', '.join(self.schema.images)}.")
        name = name or next(iter(self.schema.images))
        if name not in self.schema.images:
            raise MetaVoxelError(f"{name} is not an image of this model.")
        return name

    def _scan(self, name: str, value: Any) -> Scan:
        kind = self.schema.images[name]
        if isinstance(value, str | Path):
            path = file_path(value)
            scan = read_scan(path, kind)
            if not self.any_preparation:
                self._check_preparation(name, path, scan)
            return scan
        try:
            array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError):
            raise MetaVoxelError(
                f"{name}: give a file path or an array, not {type(value).__name__}."
            ) from None
        if array.shape == kind.shape:
            array = array[None]
        expected = (kind.channels, *kind.shape)
        if array.shape != expected:
            raise MetaVoxelError(
                f"{name}: an array must have shape {list(expected)}, not {list(array.shape)}."
            )
        if not ((array >= 0) & (array <= 1)).all():
            raise MetaVoxelError(
                f"{name}: an array must lie in [0, 1], not in [{array.min():.4g}, "
                f"{array.max():.4g}]. Scale it as the training images were."
            )
        check_values(array, name)
        grid = self.grid(name)
        return Scan(array, grid, grid, array)

    def _check_preparation(self, name: str, path: Path, scan: Scan) -> None:
        try:
            self.preparation.check(name, path, scan)
        except (KeyError, IndexError, ValueError) as error:  # of statistics, or sizes, of others
            raise MetaVoxelError(
                f"The model's preprocessing.json does not fit its images ({error}). Copy the model "
                "again, or train it again."
            ) from None

    def grid(self, name: str) -> Grid:
        """The grid on which a variable's images are generated, centred as the schema says."""
        kind = self.schema.images[name]
        affine = np.diag([*kind.spacing, *[1.0] * (4 - len(kind.spacing))])
        dims = len(kind.shape)
        centre = kind.centre if kind.centre is not None else (0.0,) * dims
        middle = (np.array(kind.shape) - 1) / 2 * np.array(kind.spacing)
        affine[:dims, 3] = np.array(centre) - middle
        return Grid(tuple(kind.shape), affine)

    def _scans(self, given: Mapping[str, Any]) -> dict[str, Scan]:
        return {v: self._scan(v, x) for v, x in given.items() if v in self.schema.images}

    def _known(self, given: Mapping[str, Any], scans: Mapping[str, Scan]) -> dict[str, Tensor]:
        known = {v: torch.from_numpy(s.array)[None] for v, s in scans.items()}
        for v in given:
            if v in self.schema.numbers:
                known[v] = torch.tensor([self._plausible(v, given[v])], dtype=torch.float64)
            elif v in self.schema.categorical:
                known[v] = label_indices(self.schema.categorical[v].labels, [given[v]])
        return known

    def _plausible(self, name: str, value: Any) -> float:
        """The value, unless it is far from all that training saw and the schema has no range."""
        scaling = self.network.scalings[name]
        middle, half = (scaling.low + scaling.high) / 2, (scaling.high - scaling.low) / 2
        if abs(float(value) - middle) > _FARTHEST * half:
            raise MetaVoxelError(
                f"{name}: {value:g} is far outside {scaling.low:g} to {scaling.high:g}, the range "
                "of the training data. This model cannot know anything about it."
            )
        return float(value)

    def _answer(self, name: str, drawn: asking.Drawn, grid: Grid | None) -> Answer:
        point = drawn.point.get(name)
        samples = drawn.samples[name][0].numpy() if name in drawn.samples else np.empty(0)
        if name in self.schema.images:
            return ImageAnswer(samples, grid or self.grid(name))
        if name in self.schema.numbers:
            value = None if point is None else float(point[0])
            scaling = self.network.scalings[name]
            unit, limits = self.schema.numbers[name].unit, (scaling.low, scaling.high)
            return ContinuousAnswer(unit, samples, value, limits, drawn.numbers.get(name))
        labels = self.schema.categorical[name].labels
        shares = (
            np.bincount(samples.astype(int), minlength=len(labels)) / max(1, len(samples))
            if point is None
            else point[0].double().numpy()
        )
        probabilities = {label: float(p) for label, p in zip(labels, shares, strict=True)}
        return CategoricalAnswer(probabilities, np.array(labels)[samples.astype(int)])


def load(folder: str | Path, device: str | None = None, any_preparation: bool = False) -> Model:
    """Load a model folder. Runs on the GPU if there is one, unless `device` says otherwise.

    Its files are compared with their checksums, always. A scan that was prepared otherwise than the
    training scans is refused, and one that looks unlike them is warned of, unless `any_preparation`
    is set.
    """
    network, told = load_model(folder, device or best_device()), Path(folder) / "preprocessing.json"
    preparation = Preparation()
    if told.is_file():
        preparation = Preparation.from_json(read_model(told, Preprocessing).model_dump())
    return Model(network, preparation, any_preparation)


def _check_changed(factual: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Refuse a change that changes nothing. Raises MetaVoxelError."""
    if not changed:
        raise MetaVoxelError('Nothing is set. Say what is to change, as --set "age=80".')
    if all(factual.get(v) == x for v, x in changed.items()):
        said = ", ".join(
            f"{v}={x:g}" if isinstance(x, float) else f"{v}={x}" for v, x in changed.items()
        )
        raise MetaVoxelError(f"{said} is what is given already. Set another value.")


def _mask(mask: str | Path | np.ndarray, kind: Image, scan: Scan) -> tuple[Tensor, np.ndarray]:
    """What is to be filled, on the model's grid and on that of the scan's file."""
    if isinstance(mask, str | Path):
        marks = read_marks(file_path(mask), kind, scan)
        masked = touched(marks, scan, file_path(mask))
    else:
        masked = _masked(np.asarray(mask), kind)
        marks = resample(masked.astype(np.float32), scan.grid, scan.source) > 0.5
    if masked.all() or not masked.any():
        which = "every voxel" if masked.all() else "no voxel"
        raise MetaVoxelError(
            f"The mask marks {which} of the model's grid. Mark those that are to be filled with 1, "
            "and no others."
        )
    return torch.from_numpy(masked), marks


def _masked(mask: np.ndarray, kind: Image) -> np.ndarray:
    """What a mask on the model's grid marks."""
    if mask.dtype.kind not in "biuf":
        raise MetaVoxelError("The mask must hold numbers: 1 where to fill, and 0 elsewhere.")
    masked = marked(mask.astype(np.float32), "The mask")
    if masked.shape != tuple(kind.shape):
        raise MetaVoxelError(
            f"The mask has shape {list(masked.shape)}; this model's grid is {list(kind.shape)}."
        )
    return masked
