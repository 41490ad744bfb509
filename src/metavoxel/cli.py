"""The terminal. Every command imports what it needs when it runs, so that others start at once."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from metavoxel.errors import MetaVoxelError
from metavoxel.preprocess.arguments import BidsApp
from metavoxel.terminal import answers_table, console, errors, print_json, sentences, warn

app = typer.Typer(
    name="metavoxel",
    help="Joint diffusion modelling of medical images and clinical data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Level = Literal["participant", "group"]
ModelFolder = Annotated[Path, typer.Argument(help="model folder, as written by train")]
Samples = Annotated[
    int | None,
    typer.Option(min=0, help="draws behind spreads and images; 0 is one evaluation only"),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="the same seed gives the same answer")
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="reverse steps of images, and of scalars that diffuse"),
]
Variable = Annotated[
    str | None, typer.Option(help="which image this is, where the model has several")
]
ModelGrid = Annotated[
    bool, typer.Option("--model-grid", help="write on the model's grid, not on the scan's own")
]
AnyPreparation = Annotated[
    bool,
    typer.Option("--any-preparation", help="ask about scans that were prepared otherwise, too"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]


@app.command()
def schema(
    bids: Annotated[Path, typer.Argument(help="BIDS folder")],
    resolution: Annotated[float | None, typer.Option(help="voxel size in mm")] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="schema, run configuration or model: list what does not fit it"),
    ] = None,
) -> None:
    """Infer the schema of a BIDS folder and print it as YAML, to edit; or check one against it."""
    from metavoxel.data.check import bearable, notes_on, schema_in, unfit
    from metavoxel.data.infer import infer

    if check is None:
        inferred = infer(bids, resolution)
        for note in dict.fromkeys([*inferred.notes, *notes_on(bids, inferred.schema)]):
            warn(note)
        sys.stdout.flush()
        sys.stdout.buffer.write(inferred.schema.to_yaml(inferred.reasons).encode())  # as YAML is
        sys.stdout.flush()
        return
    wanted = schema_in(check)
    found = unfit(bids, wanted)
    if check.is_dir():
        found, notes = bearable(found, wanted)
        for note in notes:
            warn(note)
    sys.stdout.writelines(f"{sentence}\n" for sentence in [*found.absent, *found.bad[:20]])
    if found.absent or found.bad:
        listed = "" if len(found.bad) <= 20 else " (the first 20 are listed)"
        raise MetaVoxelError(f"{check} does not fit {bids}: {found}{listed}.")
    console.print(f"{escape(str(bids))}: its tables fit {escape(str(check))}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="folder to write, as a BIDS dataset")],
    subjects: Annotated[int, typer.Option(help="number of subjects")] = 400,
    seed: Seed = 0,
    resolution: Annotated[float, typer.Option(help="voxel size in mm")] = 4.0,
    missing: Annotated[float, typer.Option(help="share of the table's cells left n/a")] = 0.2,
    slices: Annotated[bool, typer.Option("--slices", help="2D: one axial PNG a subject")] = False,
) -> None:
    """Simulate a cohort from the MNI152 template by a known causal model, with the exact truth."""
    from rich.progress import Progress

    from metavoxel.data.simulate import simulate as run

    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("Simulating", total=subjects)
        run(
            out,
            subjects=subjects,
            seed=seed,
            resolution=resolution,
            missing=missing,
            slices=slices,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    errors.print(f"{subjects} subjects in {escape(str(out))}")


@app.command(cls=BidsApp)
def preprocess(
    bids: Annotated[Path, typer.Argument(help="BIDS folder with raw scans")],
    out: Annotated[Path, typer.Argument(help="folder of the derivative")],
    level: Annotated[Level, typer.Argument(help="participant: scan by scan; group: the report")],
    participant_label: Annotated[
        list[str] | None,
        typer.Option(
            "--participant-label", "--participant_label", help="these only, such as 01 02 (all)"
        ),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(
            "--session-label", "--session_label", help="these only, the first is the baseline (all)"
        ),
    ] = None,
    suffix: Annotated[str, typer.Option(help="BIDS suffix of the scans")] = "T1w",
    resolution: Annotated[float, typer.Option(help="voxel size in mm")] = 2.0,
    skull_strip: Annotated[
        str, typer.Option(help="deepbet, hd-bet, synthstrip, mask or none")
    ] = "deepbet",
    masks: Annotated[
        Path | None,
        typer.Option(help="folder like BIDS with *_mask.nii.gz, for --skull-strip mask"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="scans at once; 1.5 GB each at 2 mm")] = 1,
    executor: Annotated[
        str, typer.Option(help="local, or the address of a dask scheduler")
    ] = "local",
) -> None:
    """Prepare raw scans as the paper does: N4, skull stripping, rigid registration to MNI152.

    A BIDS App. What is done is skipped, what fails is listed with its reason and stops nothing
    else; kill it and run it again at any time.
    """
    if level == "group":
        from metavoxel.preprocess.report import run_group

        run_group(out, errors)
        return
    from metavoxel.preprocess.command import Selection, executor_named, run_participants
    from metavoxel.preprocess.recipe import read_recipe

    recipe = read_recipe(resolution=resolution, skull_strip=skull_strip)
    chosen = Selection(suffix, participant_label or (), session_label or (), masks)
    if run_participants(bids, out, recipe, chosen, executor_named(executor, jobs), errors):
        raise typer.Exit(1)


@app.command()
def qc(
    out: Annotated[Path, typer.Argument(help="derivative that preprocess wrote")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port on this machine; 0 is any free one")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="do not open the page, only say where it is")
    ] = False,
) -> None:
    """Look at every prepared scan in the browser and decide: pass, fail or unsure.

    The oddest come first. Decisions are kept in qc.tsv as they are made; train leaves out the
    scans that failed.
    """
    try:
        from metavoxel.studio.qc import run_qc
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "metavoxel":
            raise
        raise MetaVoxelError(
            f"The page needs {error.name}. Install it with: pip install 'metavoxel[qc]'"
        ) from None
    run_qc(out, port, not no_browser, errors)


@app.command()
def train(
    bids: Annotated[Path, typer.Argument(help="BIDS folder, or a derivative of one")],
    out: Annotated[Path, typer.Option(help="model folder to write")],
    config: Annotated[Path | None, typer.Option(help="run configuration (YAML)")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue a run that was killed")
    ] = False,
    autoencoder: Annotated[
        Path | None, typer.Option(help="model folder whose autoencoder is taken over")
    ] = None,
) -> None:
    """Train one model of all variables: autoencoder, latent cache, joint stage."""
    from metavoxel.training.config import RunConfig, read_config
    from metavoxel.training.run import train as run

    settings = read_config(config) if config is not None else RunConfig.model_validate({})
    run(bids, settings, out, resume, autoencoder, errors)


@app.command()
def ask(
    model: ModelFolder,
    question: Annotated[str, typer.Argument(help='such as "age, sex | image=scan.nii.gz"')],
    samples: Samples = None,
    out: Annotated[Path | None, typer.Option(help="folder for samples, as BIDS")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess", help="images are raw (NIfTI or DICOM): prepare them first"),
    ] = False,
    any_preparation: AnyPreparation = False,
    prior: Annotated[
        str | None,
        typer.Option(
            help='how frequent labels are where you ask, not in training, such as "diagnosis: CN '
            '0.8, MCI 0.15, AD 0.05"'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for some variables given others; those not named are marginalised."""
    from metavoxel.inference.limits import check_samples
    from metavoxel.inference.query import parse_query
    from metavoxel.inference.stated_prior import parse_prior, prior_text

    asked = parse_query(question)
    check_samples(samples or 0)  # before anything is loaded
    stated = None if prior is None else parse_prior(prior)
    from metavoxel.api import load
    from metavoxel.data.synthetic import samples_folder, write_samples

    loaded = load(model, any_preparation=any_preparation)
    if out is None and any(v in loaded.schema.images for v in asked.asked):
        raise MetaVoxelError("Images are asked for; say where to write them with --out FOLDER.")
    if out is not None and samples == 0:
        raise MetaVoxelError("--out takes samples; ask with --samples of 1 or more.")
    if out is not None and samples is None:  # where one evaluation would do, too
        samples = loaded.sampling.samples
    with TemporaryDirectory() as folder, samples_folder(out) if out else nullcontext() as place:
        given = dict(asked.given)
        if preprocess:
            given |= _prepared(loaded, given, Path(folder))
        names = ", ".join(asked.asked)
        answers = loaded.ask(names, given, samples, seed, stated, **_given(steps=steps))
        if place is not None:
            stripped = _stripped(loaded)
            told = write_samples(answers, loaded.schema, given, place, question, seed, stripped)
            for note in told:
                warn(note)
    if out is not None:
        errors.print(f"Written to {escape(str(out))}")
    if as_json:
        print_json(answers.summary() | ({} if stated is None else {"prior": stated}))
        return
    console.print(answers_table(answers))
    if stated is not None:
        console.print(f"Prior, stated: {escape(prior_text(stated))}", highlight=False)


@app.command()
def inpaint(
    model: ModelFolder,
    image: Annotated[Path, typer.Argument(help="the image")],
    mask: Annotated[Path, typer.Argument(help="mask on the image's grid, 1 where to fill")],
    out: Annotated[Path, typer.Option(help="folder for the filled images")],
    given: Annotated[str, typer.Option(help='what else is known, such as "age=70, sex=F"')] = "",
    samples: Annotated[int, typer.Option(min=1, help="number of fillings")] = 1,
    variable: Variable = None,
    seed: Seed = 0,
    steps: Steps = None,
    model_grid: ModelGrid = False,
    any_preparation: AnyPreparation = False,
) -> None:
    """Fill the masked part of an image given the rest of it."""
    from metavoxel.inference.limits import check_samples
    from metavoxel.inference.query import parse_values

    known = parse_values(given)
    check_samples(samples)
    from metavoxel.api import load
    from metavoxel.data.synthetic import images_folder, write_images

    loaded = load(model, any_preparation=any_preparation)
    with images_folder(out, "inpaint", "inpainted", samples) as place:
        answer = loaded.inpaint(image, mask, known, samples, seed, variable, **_given(steps=steps))
        answer = answer if model_grid else answer.on_source()
        paths = write_images(answer.samples, answer.grid, place, "inpainted")
    errors.print(f"{len(paths)} written to {escape(str(out))}")


@app.command()
def counterfactual(
    model: ModelFolder,
    image: Annotated[Path, typer.Argument(help="the image")],
    set_: Annotated[str, typer.Option("--set", help='the change, such as "age=80"')],
    out: Annotated[Path, typer.Option(help="folder for the image")],
    given: Annotated[str, typer.Option(help='what is true now, such as "age=52, sex=F"')] = "",
    variable: Variable = None,
    steps: Steps = None,
    model_grid: ModelGrid = False,
    any_preparation: AnyPreparation = False,
) -> None:
    """Show the same scan as it would be under other values."""
    from metavoxel.inference.query import parse_values

    known, changed = parse_values(given), parse_values(set_)
    from metavoxel.api import load
    from metavoxel.data.synthetic import images_folder, write_images

    loaded = load(model, any_preparation=any_preparation)
    record = {variable or next(iter(loaded.schema.images), ""): image, **known}
    with images_folder(out, "counterfactual", "counterfactual") as place:
        answer = loaded.counterfactual(record, changed, variable, **_given(steps=steps))
        answer = answer if model_grid else answer.on_source()
        write_images(answer.samples, answer.grid, place, "counterfactual")
    errors.print(f"Written to {escape(str(out))}")


@app.command()
def info(
    model: Annotated[Path | None, typer.Argument(help="model folder; none: this program")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a model is: its variables, training and scores. Without a model: the version."""
    from metavoxel.info import describe
    from metavoxel.version import __version__

    facts = {"metavoxel": __version__} if model is None else describe(model)
    if as_json:
        from metavoxel.model_files import json_text

        sys.stdout.write(json_text(facts))
    else:
        import yaml

        text = yaml.safe_dump(facts, sort_keys=False, default_flow_style=None).rstrip()
        console.print(text, markup=False, soft_wrap=True)


@app.command()
def verify(model: ModelFolder) -> None:
    """Check that a model is whole and answers as it did when it was saved."""
    from metavoxel.api import load
    from metavoxel.files.json import read_model
    from metavoxel.inference.selftest import selftest_failures
    from metavoxel.model_files import SelfTest

    loaded = load(model, device="cpu")  # which compares the checksums
    record = read_model(model / "selftest.json", SelfTest)
    failures = selftest_failures(loaded.network, record.model_dump())
    if failures:
        raise MetaVoxelError(f"{model}: {'; '.join(failures)}. Copy or train the model again.")
    console.print(f"{escape(str(model))}: verified")


@app.command()
def evaluate(
    model: ModelFolder,
    bids: Annotated[Path, typer.Argument(help="BIDS folder: the one it was trained on, or any")],
    out: Annotated[Path, typer.Option(help="folder for the report; goes on where one was stopped")],
    samples: Annotated[
        int, typer.Option(min=1, help="samples of an answer, where scalars diffuse")
    ] = 32,
    seed: Seed = 0,
    any_preparation: AnyPreparation = False,
    external: Annotated[
        bool,
        typer.Option(
            "--external", help="the subjects are others than the model's, if of equal name"
        ),
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="scores by this variable or column, such as site; may be given again "
            "(default: the categorical variables)"
        ),
    ] = None,
) -> None:
    """Score a model on test subjects: every scalar given the images, beside baselines.

    Of a cohort with the model's training subjects only its test subjects count; a cohort of other
    subjects counts whole.
    """
    from metavoxel.evaluation.report import as_markdown
    from metavoxel.evaluation.report import evaluate as run

    report = run(model, bids, out, samples, seed, errors, any_preparation, external, by or ())
    sys.stdout.write(as_markdown(report))


@app.command()
def experiment(
    config: Annotated[Path, typer.Argument(help="YAML file of the experiment")],
    out: Annotated[
        Path | None, typer.Option(help="folder of its results (experiments/NAME OF THE FILE)")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="train nothing: report what is done so far")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="processes that share the work")] = 1,
) -> None:
    """Train and ask many systems on the same folds; write their tables and figures.

    It goes on where it was stopped, and several processes may work on one folder.
    """
    from metavoxel.evaluation.experiment.run import experiment as run

    folder = out or Path("experiments") / config.stem
    sys.stdout.write(run(config, folder, errors, report, jobs))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for cohort, model and report")] = Path("demo"),
) -> None:
    """The whole story on a simulated cohort: simulate, train, ask, and an HTML report.

    A demo that was killed is continued, and what is finished is kept.
    """
    from metavoxel.demo import run_demo

    run_demo(out, errors)


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that the user gave."""
    return {k: v for k, v in settings.items() if v is not None}


def _prepared(loaded: Any, given: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Every raw image of a question, prepared as the model's training scans were."""
    from metavoxel.inference.query import file_path
    from metavoxel.preprocess.single import prepare_scan

    recipe, out = loaded.preparation.recipe(), {}
    for v, kind in loaded.schema.images.items():
        if v in given:
            errors.print(f"Preparing {escape(str(given[v]))}")
            out[v] = prepare_scan(file_path(given[v]), recipe, folder / v, kind.suffix)
    return out


def _stripped(loaded: Any) -> bool | None:
    """Whether a model's images are of brains without skull: every recipe of ours makes them so."""
    with suppress(MetaVoxelError):  # it does not say how its training scans were prepared
        loaded.preparation.recipe()
        return True
    return None


def main() -> None:
    """Run a command."""
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may lack the letters of a cell
        sys.stdout.reconfigure(errors="backslashreplace")
    with sentences():
        app(standalone_mode=True)
