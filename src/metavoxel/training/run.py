"""Training, from a BIDS folder to a model folder, in one call that can be killed and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from torch import Tensor

from metavoxel.data.bids import Cohort, check_trainable, read_cohort
from metavoxel.data.infer import infer_schema
from metavoxel.data.splits import Split
from metavoxel.errors import MetaVoxelError
from metavoxel.files.weights import load_weights, write_weights
from metavoxel.files.writing import atomic_write
from metavoxel.model import MetaVoxel, best_device
from metavoxel.model_folder import load_model, save_model
from metavoxel.schema import Schema
from metavoxel.training.answers import CALIBRATED, CalibratedLoss, HeldOutAnswers
from metavoxel.training.autoencoder import train_autoencoder
from metavoxel.training.card import model_files
from metavoxel.training.checkpoint import AtomicCheckpoint, BestWeights, averaging, best_step, fit
from metavoxel.training.config import JointTraining, RunConfig
from metavoxel.training.crossfit import (
    HeldOut,
    answers_of,
    cross_fit,
    fit_calibration,
    held_out,
)
from metavoxel.training.examples import (
    Examples,
    Progress,
    encode_cohort,
    read_volumes,
    scalar_prior,
    scalings,
)
from metavoxel.training.given_scalars import follow_scalars
from metavoxel.training.hidden import hide
from metavoxel.training.joint import JointModule
from metavoxel.training.precision import resolve_precision
from metavoxel.training.preparation import declared, fit_preparation
from metavoxel.training.progress import TrainingProgress
from metavoxel.training.run_folder import Folders, check_run, open_run, overlap, split_of_run
from metavoxel.training.statistics import fit_statistics

_EVERY = 50  # steps between checkpoints of the autoencoder stage
_CROSS_FIT = 0.5  # steps of the cross-fit in all, at most, over those of the joint stage


def train(
    bids: Path,
    config: RunConfig,
    out: Path,
    resume: bool = False,
    autoencoder: Path | None = None,
    console: Console | None = None,
) -> MetaVoxel:
    """Train a model on a BIDS folder and write it to `out`.

    State is kept in `out`.training until the run is done, and after it for its logs. `autoencoder`
    is a model folder whose frozen autoencoder is used instead of training one. Raises
    MetaVoxelError for anything wrong with the data, the configuration or the folders.
    """
    console = console or Console(stderr=True)
    folders = Folders.of(Path(out))

    def warn(text: str) -> None:
        console.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    schema = config.variables or infer_schema(bids, config.resolution, warn)
    config.training.check(schema)
    config = config.model_copy(update={"variables": schema})
    check_run(folders, config, autoencoder, resume)
    cohort = read_cohort(bids, schema)
    split = split_of_run(folders, config, cohort)
    for warning in (*cohort.warnings, *overlap(autoencoder, split)):
        warn(warning)
    parts = _parts(cohort, split, config)
    check_trainable(parts["train"])
    declared(cohort)  # one that cannot be read is said now, not when all is trained
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    diffusing = config.model.diffusion.scalars == "diffusion"
    scaled = scalings(schema, parts["train"], diffusing)
    none = diffusing or not schema.scalars
    prior = None if none else scalar_prior(schema, parts["train"], scaled)
    model = MetaVoxel(schema, config.model, scaled, prior).to(best_device())
    settled = resolve_precision(config, model)
    with folders.alone():
        open_run(folders, config, autoencoder, cohort, split)
        config = settled  # the run keeps what was given: it may be resumed on another machine
        volumes = _volumes(folders, parts, schema, console)
        _autoencoder_stage(model, config, folders, parts, volumes, autoencoder, console)
        examples = _encode(model, config, folders, parts, volumes, console)
        follow_scalars(model, examples["train"])
        _joint_stage(model, config, folders, examples, console)
        found = _calibrate(model, config, folders, examples, parts["train"], console)
        preparation = fit_preparation(parts["train"], volumes["train"])
        answers = answers_of(model, found) if found else {}
        files = model_files(
            model, config, parts, split, examples, autoencoder, preparation, answers
        )
        save_model(model, folders.model, files)
    console.print(f"Model written to {escape(str(folders.model))}")
    return model


def _parts(cohort: Cohort, split: Split, config: RunConfig) -> dict[str, Cohort]:
    training = hide(cohort.only(split.train), config.training.hidden, config.training.seed)
    if config.training.complete_rows_only:
        whole = [r for r in training.records if all(v in r.values for v in cohort.schema)]
        if not whole:
            raise MetaVoxelError("No training record is complete; set complete_rows_only to false.")
        training = replace(training, records=tuple(whole))
    return {"train": training, "validation": cohort.only(split.validation)}


def _volumes(
    folders: Folders, parts: dict[str, Cohort], schema: Schema, console: Console
) -> dict[str, dict[str, Tensor]]:
    out: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for part, cohort in parts.items():
        for v, image in schema.images.items():
            path = folders.cache / f"volumes-{part}-{v}.npy"
            with _bar(console, f"Reading {v} ({part})") as tick:
                out[part][v] = read_volumes(cohort, v, image, path, tick)
    return out


def _autoencoder_stage(
    model: MetaVoxel,
    config: RunConfig,
    folders: Folders,
    parts: dict[str, Cohort],
    volumes: dict[str, dict[str, Tensor]],
    given: Path | None,
    console: Console,
) -> None:
    """Train, take over or reload every autoencoder; leave it frozen, with its statistics."""
    done = folders.run / "autoencoder.safetensors"
    if not done.exists():
        if given is not None:
            _take_over(model, given)
        for v, image in model.schema.images.items():
            seen = {p: _observed(x[v], parts[p], v) for p, x in volumes.items()}
            if given is not None:
                fit_statistics(model.autoencoders[v], seen["train"])  # type: ignore[arg-type]  # a ModuleDict of encoders
                continue
            settings, folder = config.training.autoencoder, folders.run / f"autoencoder-{v}"
            console.print(f"Autoencoder of {v}: {settings.steps} steps")
            train_autoencoder(
                model.autoencoders[v],  # type: ignore[arg-type]  # a ModuleDict of encoders
                image,
                seen["train"],
                seen["validation"],
                settings,
                seed=config.training.seed,
                bf16=config.training.precision == "bf16",
                callbacks=[
                    AtomicCheckpoint(folder / "last.ckpt", _EVERY, lambda m: int(m.step)),  # type: ignore[arg-type]  # a buffer
                    TrainingProgress(console, settings.steps, lambda m: int(m.step)),  # type: ignore[arg-type]  # a buffer
                ],
                checkpoint=folder / "last.ckpt",
                logger=_logger(folder),
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        with atomic_write(done) as temporary:
            write_weights(model.autoencoders, temporary)
    load_weights(model.autoencoders, done)
    model.autoencoders.eval().requires_grad_(False)


def _take_over(model: MetaVoxel, folder: Path) -> None:
    """Copy the autoencoders of another model. Raises MetaVoxelError if they do not fit."""
    weights = load_model(folder).autoencoders.state_dict()
    given = {k: x for k, x in weights.items() if not _describes_a_cohort(k)}
    own = {k: x for k, x in model.autoencoders.state_dict().items() if _describes_a_cohort(k)}
    try:
        model.autoencoders.load_state_dict(given | own)
    except RuntimeError:
        raise MetaVoxelError(
            f"{folder}: its autoencoder has another shape. Use the same image names and encoding."
        ) from None


def _describes_a_cohort(buffer: str) -> bool:
    """Whether a buffer of the autoencoders belongs to the cohort and its grid."""
    return ".latent_" in buffer or ".given." in buffer or buffer.endswith(".effects")


def _observed(volumes: Tensor, cohort: Cohort, name: str) -> Tensor:
    """The volumes that are there. They stay on disk if that is all of them."""
    rows = torch.tensor([name in r.values for r in cohort.records], dtype=torch.bool)
    return volumes if rows.all() else volumes[rows]


def _encode(
    model: MetaVoxel,
    config: RunConfig,
    folders: Folders,
    parts: dict[str, Cohort],
    volumes: dict[str, dict[str, Tensor]],
    console: Console,
) -> dict[str, Examples]:
    """The latent cache of both parts; only the training images have augmented copies."""
    joint, out = config.training.joint, {}
    for part, cohort in parts.items():
        with _bar(console, f"Encoding ({part})") as tick:
            out[part] = encode_cohort(
                model,
                cohort,
                volumes[part],
                joint.copies if part == "train" else 1,
                joint.augmentation,
                config.training.seed,
                folders.cache / part,
                tick,
            )
    return out


def _joint_stage(
    model: MetaVoxel,
    config: RunConfig,
    folders: Folders,
    examples: dict[str, Examples],
    console: Console,
) -> None:
    settings, folder = config.training.joint, folders.run / "joint"
    module = JointModule(model, examples["train"], examples["validation"], config.training)
    weights = sum(p.numel() for p in model.denoiser.parameters()) / 1e6
    console.print(f"Joint stage: {settings.steps} steps, {weights:.1f} M weights")
    scalars = [*model.schema.scalars] if model.law is None else [CALIBRATED]
    best = BestWeights(folder, model.schema.images, scalars)
    _fit(module, folder, [HeldOutAnswers(settings), CalibratedLoss(), best], settings, console)
    if (folder / "best.safetensors").exists():
        load_weights(model.denoiser, folder / "best.safetensors")
    model.eval()


def _calibrate(
    model: MetaVoxel,
    config: RunConfig,
    folders: Folders,
    examples: dict[str, Examples],
    cohort: Cohort,
    console: Console,
) -> list[HeldOut]:
    """Calibrate the law by evidence about validation subjects, and training subjects cross-fitted,
    which is returned. Nothing is done without a law, or if it is not wanted."""
    joint, folds = config.training.joint, config.training.joint.calibration_folds
    if (
        model.law is None
        or folds < 2
        or not model.supports([*model.law.names], model.schema.images)
    ):
        return []
    best = best_step(folders.run / "joint") or joint.steps
    answered = min(folds, max(1, int(_CROSS_FIT * joint.steps / best)))
    # As long as the model was trained until its weights were taken, or as half of its steps allow.
    share = min(1.0, _CROSS_FIT * joint.steps / (answered * best))
    steps = max(1, round(share * best))
    update = {"steps": round(share * joint.steps), "validate_every": steps, "answer_samples": 0}
    own = config.training.model_copy(update={"joint": joint.model_copy(update=update)})

    def train(network: MetaVoxel, some: Examples, folder: Path) -> None:
        console.print(f"Cross-fit, {folder.name}: {steps} steps")
        _fit(JointModule(network, some, None, own), folder, [], own.joint, console, steps)

    subjects, training = [r.subject for r in cohort.records], examples["train"]
    folder, seed = folders.run / "crossfit", config.training.seed
    found = cross_fit(model, training, subjects, folds, answered, folder, train, seed)
    every = torch.arange(len(examples["validation"]))
    found.append(held_out(model, examples["validation"], every))
    found = [group for group in found if len(group.evidence.mean)]
    if found:
        model.law.calibration = fit_calibration(model.law, found, seed)
    return found


def _fit(
    module: JointModule,
    folder: Path,
    callbacks: list[Callback],
    settings: JointTraining,
    console: Console,
    steps: int | None = None,
) -> None:
    """Train a module from where its folder stands, for all of the steps of its settings or fewer;
    its averaged weights are left in the model."""
    device, steps = module.model.device, steps or settings.steps
    module.model.denoiser.train()
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=_logger(folder),
        callbacks=[
            *callbacks,
            averaging(settings.ema_decay, device),
            AtomicCheckpoint(
                folder / "last.ckpt", settings.checkpoint_every, lambda m: m.global_step
            ),
            TrainingProgress(console, steps, lambda m: m.global_step),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if module.validation_examples[0] is not None else 0,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=min(20, settings.validate_every),
    )
    fit(trainer, module, folder / "last.ckpt")
    module.model.to(device)  # Lightning leaves the denoiser on the CPU


def _logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder.parent, name=folder.name, version="logs")


@contextmanager
def _bar(console: Console, text: str) -> Iterator[Progress]:
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(text, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
