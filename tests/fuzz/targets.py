"""What is fuzzed: a place with whole files, and for each a reader that a mutant of it goes through.

A target reads its place and returns something that can be compared; it may raise MetaVoxelError,
and nothing else. Where a checksum or the grammar covers the file, a mutant that is read as
something else than the original is a silent acceptance, and a fault.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np

from folders import AGE, SEX, noise, read_nifti, write_bids, write_nifti, write_png
from metavoxel.errors import MetaVoxelError

Read = Callable[[Path], Any]
Covered = Callable[[bytes], bool]

IMAGE = {"kind": "image", "shape": [8, 8, 8], "spacing": [2, 2, 2]}
SCHEMA = {"variables": {"image": IMAGE, "age": AGE, "sex": SEX}}
PLAN = Path(__file__).parents[2] / "configs/experiments/simulated-slices.yaml"
PIXELS = {"kind": "image", "shape": [16, 16], "spacing": [1, 1]}


@dataclass(frozen=True)
class Target:
    """A file of the place, and how it is read.

    `covered` says of a mutant whether something must notice that it is not the original. With
    `strict` every mutant must be refused, also one that reads alike.
    """

    name: str
    file: str
    read: Read
    covered: Covered = lambda _: False
    strict: bool = False


def always(_: bytes) -> bool:
    return True


def no_utf8(data: bytes) -> bool:
    """Whether it is no UTF-8 text, which no reader of text may take."""
    try:
        return "\0" in data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return True


def no_json(data: bytes) -> bool:
    """Whether the grammar of JSON forbids it."""
    try:
        json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return True
    return False


def build(place: Path) -> None:
    """The whole files."""
    rows = [
        "participant_id age sex",
        *(f"sub-{i:02d} {20 + 5.5 * i} {'FM'[i % 2]}" for i in range(6)),
    ]
    described = {"age": {"Units": "years"}, "sex": {"Levels": {"F": "female", "M": "male"}}}
    scans = [f"sub-{i:02d}_ses-{k}_T1w" for i in range(6) for k in (1, 2)]
    write_bids(place / "bids", rows, scans, described)
    (place / "bids/dataset_description.json").write_text(json.dumps(_DESCRIPTION, indent=1))
    for i in range(6):
        visits = f"session_id\tage\nses-1\t{20 + 5.5 * i}\nses-2\t{22 + 5.5 * i}\n"
        (place / f"bids/sub-{i:02d}/sub-{i:02d}_sessions.tsv").write_text(visits)
    _build_images(place)
    _build_texts(place)
    _build_model(place / "model")
    _build_derivative(place / "derivative")
    (place / "series.zip").write_bytes(_zip({"a/1.dcm": _dicom(place)}))


_DESCRIPTION = {
    "Name": "fuzzed",
    "BIDSVersion": "1.9.0",
    "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.0.0", "Description": "as it comes"}],
    "DatasetLinks": {"raw": "file:///nowhere"},
}


def _build_images(place: Path) -> None:
    # Any: nibabel's stubs want of an MGHImage an array whose shape cannot be set.
    voxels: Any = (noise(8, 8, 8) * 200 + 1).astype(np.int16)
    image = write_nifti(place / "scan.nii.gz", voxels)
    nib.save(nib.load(image), place / "scan.nii")
    nib.save(nib.Nifti2Image(voxels, np.diag([2.0, 2, 2, 1])), place / "scan2.nii.gz")
    nib.save(nib.MGHImage(voxels, np.diag([2.0, 2, 2, 1])), place / "scan.mgz")
    write_nifti(place / "mask.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), 2))
    pixels = (noise(16, 16) * 200 + 1).astype(np.uint8)
    for ending in ("png", "jpg", "tif"):
        write_png(place / f"slice.{ending}", pixels)


def _build_texts(place: Path) -> None:
    import yaml

    (place / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    run = {"schema": SCHEMA, "training": {"split": {"kind": "folds", "folds": 3, "fold": 0}}}
    (place / "run.yaml").write_text(yaml.safe_dump(run))
    shutil.copy(PLAN, place / "plan.yaml")
    (place / "question.txt").write_text('sex | image="a, b.nii.gz", age=71.5')
    parts = {"train": ["sub-00", "sub-01"], "validation": ["sub-02"], "test": ["sub-03"]}
    (place / "split.json").write_text(json.dumps({**parts, "made": "by hand"}))
    said = {"scan": "sub-01_T1w", "decision": "pass", "note": "well", "rater": "me", "seen": 0}
    (place / "request.txt").write_text(f"POST /api/decisions\n{json.dumps(said)}")
    (place / "qc").mkdir()
    lines = ["participant_id\tsession_id\tscan\tdecision\tnote\trater\ttime"]
    lines += [f"sub-0{i}\tn/a\tsub-0{i}_T1w\tfail\tmoved\tme\t2026-01-01" for i in range(4)]
    (place / "qc/qc.tsv").write_text("\n".join(lines) + "\n")
    from metavoxel.files.owned import marker_text

    (place / "owned").mkdir()
    (place / "owned/ours.txt").write_text("ours")
    (place / "owned/foreign.txt").write_text("not ours")
    (place / "owned/.metavoxel.json").write_text(marker_text("ask", ["ours.txt"]))


def _build_model(folder: Path) -> None:
    from folders import scores
    from metavoxel.model import MetaVoxel
    from metavoxel.model_config import ModelConfig
    from metavoxel.model_folder import save_model
    from metavoxel.schema import parse_schema

    small = {"channels": [8, 8], "groups": 4}
    config = {
        "encoding": {"kind": "kl", "patch": 2, "latent_channels": 2, **small},
        "denoiser": {"head_channels": 8, "scalar_head_channels": 8, **small},
        "sampling": {"steps": 2, "samples": 2},
    }
    schema = parse_schema(SCHEMA, "fuzz")
    model = MetaVoxel(schema, ModelConfig.model_validate(config), {"age": scores(0, 100)})
    save_model(model, folder)


def _build_derivative(out: Path) -> None:
    name = "sub-00_space-MNI152NLin2009aSym_res-8_desc-brain_T1w"
    write_nifti(out / f"sub-00/anat/{name}.nii.gz", noise(8, 8, 8))
    told = {
        "MetaVoxel": {"Measures": {"brain_volume": 1200.0}, "Notes": ["none"]},
        "Sources": ["x"],
    }
    (out / f"sub-00/anat/{name}.json").write_text(json.dumps(told))
    (out / "logs").mkdir()
    (out / "logs/sub-01_T1w.json").write_text(
        json.dumps({"status": "failed", "reason": "no brain"})
    )
    made = {"Name": "metavoxel preprocess", "Recipe": {"settings": {}, "tools": {}}}
    about = {"Name": "x", "BIDSVersion": "1.9.0", "GeneratedBy": [made]}
    (out / "dataset_description.json").write_text(json.dumps(about))


def _dicom(place: Path) -> bytes:
    """A slice, which also is written as a file on its own."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    slice_ = FileDataset("slice.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    uid = {k: generate_uid(entropy_srcs=[k]) for k in ("study", "series")}
    facts: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid["study"],
        "SeriesInstanceUID": uid["series"],
        "Modality": "MR",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "PatientName": "nobody",
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SliceThickness": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 16,
        "Columns": 16,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": (noise(16, 16) * 1000).astype(np.uint16).tobytes(),
    }
    for key, value in facts.items():
        setattr(slice_, key, value)
    (place / "dicom").mkdir(exist_ok=True)
    pydicom.dcmwrite(place / "dicom/slice.dcm", slice_, enforce_file_format=True)
    return (place / "dicom/slice.dcm").read_bytes()


def _zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def targets() -> Iterator[Target]:
    yield from _text_targets()
    yield from _dataset_targets()
    yield from _image_targets()
    yield from _model_targets()
    yield from _page_targets()


def _text_targets() -> Iterator[Target]:
    from metavoxel.data.quality import read_decisions
    from metavoxel.data.splits import read_split
    from metavoxel.evaluation.experiment.config import read_experiment
    from metavoxel.files.json import read_json
    from metavoxel.files.owned import OwnedFolder
    from metavoxel.files.table import read_lines
    from metavoxel.files.yaml import read_yaml
    from metavoxel.inference.query import parse_query
    from metavoxel.schema import parse_schema, read_schema
    from metavoxel.training.config import read_config

    schema = parse_schema(SCHEMA, "fuzz")

    def question(place: Path) -> Any:
        text = (place / "question.txt").read_bytes().decode(errors="replace")
        return parse_query(text).check(schema)

    def owned(place: Path) -> Any:
        folder = OwnedFolder(place / "owned", "ask")
        if folder.check():
            folder.clear()
        assert (place / "owned/foreign.txt").exists() or "foreign.txt" in _marked(place)
        return None

    def _marked(place: Path) -> tuple[str, ...]:
        return tuple(json.loads((place / "owned/.metavoxel.json").read_text())["files"])

    yield Target("JSON", "split.json", lambda p: read_json(p / "split.json"), no_json)
    yield Target("YAML", "schema.yaml", lambda p: read_yaml(p / "schema.yaml"), no_utf8)
    yield Target("table", "qc/qc.tsv", lambda p: read_lines(p / "qc/qc.tsv"), no_utf8)
    yield Target("schema", "schema.yaml", lambda p: read_schema(p / "schema.yaml"), no_utf8)
    yield Target("run", "run.yaml", lambda p: read_config(p / "run.yaml"), no_utf8)
    yield Target("experiment", "plan.yaml", lambda p: read_experiment(p / "plan.yaml"), no_utf8)
    yield Target("split", "split.json", lambda p: read_split(p / "split.json"), no_json)
    yield Target("decisions", "qc/qc.tsv", lambda p: read_decisions(p / "qc"), no_utf8)
    yield Target("marker", "owned/.metavoxel.json", owned, no_json)
    yield Target("question", "question.txt", question)


def _dataset_targets() -> Iterator[Target]:
    from metavoxel.data.bids import read_cohort
    from metavoxel.data.infer import infer_schema
    from metavoxel.preprocess.group import read_group
    from metavoxel.schema import parse_schema

    schema = parse_schema(SCHEMA, "fuzz")

    def inferred(place: Path) -> Any:
        return infer_schema(place / "bids").to_yaml()

    def cohort(place: Path) -> Any:
        return [
            (r.id, sorted(map(str, r.values.items())))
            for r in read_cohort(place / "bids", schema).records
        ]

    tables = ("participants.tsv", "sub-03/sub-03_sessions.tsv")
    for file in tables:
        yield Target(f"schema of {file[-12:]}", f"bids/{file}", inferred, no_utf8)
        yield Target(f"cohort of {file[-12:]}", f"bids/{file}", cohort, no_utf8)
    yield Target("schema of participants.json", "bids/participants.json", inferred, no_json)
    scan = "bids/sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz"
    yield Target("schema of a scan", scan, inferred)
    sidecar = "derivative/sub-00/anat/sub-00_space-MNI152NLin2009aSym_res-8_desc-brain_T1w.json"
    for file in (sidecar, "derivative/logs/sub-01_T1w.json"):
        yield Target(f"group of {file[-10:]}", file, lambda p: read_group(p / "derivative"))


def _image_targets() -> Iterator[Target]:
    from metavoxel.data.images import read_mask, read_scan, read_volume
    from metavoxel.preprocess.dicom import from_dicom
    from metavoxel.schema import Image

    cube, square = Image.model_validate(IMAGE), Image.model_validate(PIXELS)

    def scan(name: str) -> Read:
        return lambda place: _digest(read_scan(place / name, cube).array)

    def picture(name: str) -> Read:
        return lambda place: _digest(read_scan(place / name, square).array)

    def dicom(name: str) -> Read:
        return lambda place: _digest(read_nifti(from_dicom(place / name, place / "converted"))[0])

    def mask(place: Path) -> Any:
        return _digest(read_mask(place / "mask.nii.gz", cube, read_scan(place / "scan.nii", cube)))

    for name in ("scan.nii.gz", "scan2.nii.gz", "scan.mgz"):
        yield Target(name, name, scan(name), always)  # CRC-32 of gzip
    yield Target("scan.nii", "scan.nii", scan("scan.nii"))
    yield Target(
        "volume", "scan.nii.gz", lambda p: _digest(read_volume(p / "scan.nii.gz")[0]), always
    )
    yield Target("mask", "mask.nii.gz", mask, always)
    yield Target("slice.png", "slice.png", picture("slice.png"), always)  # CRC-32 of every chunk
    for name in ("slice.jpg", "slice.tif"):
        yield Target(name, name, picture(name))
    yield Target("DICOM", "dicom/slice.dcm", dicom("dicom/slice.dcm"))
    yield Target("zip of DICOM", "series.zip", dicom("series.zip"), always)  # CRC-32 of its members


def _model_targets() -> Iterator[Target]:
    from metavoxel.api import load
    from metavoxel.info import describe
    from metavoxel.model_files import write_checksums

    def loaded(place: Path) -> Any:
        return load(place / "model", device="cpu").schema.to_yaml()

    def listed(place: Path) -> Any:
        """Where whoever changed a file wrote the checksums anew."""
        write_checksums(place / "model")
        answer = load(place / "model", device="cpu").ask("age, sex", samples=0)
        return sorted(answer.summary())

    files = ("schema.json", "config.yaml", "encoding.json", "denoiser.safetensors")
    for file in (*files, "autoencoder.safetensors", "posterior.json"):
        yield Target(f"model, {file}", f"model/{file}", loaded, always, strict=True)
    for file in ("encoding.json", "posterior.json"):
        yield Target(f"listed {file}", f"model/{file}", listed, no_json)
    yield Target("model, checksums.json", "model/checksums.json", loaded, always)
    for file in ("schema.json", "config.yaml"):
        yield Target(f"info of {file}", f"model/{file}", lambda p: describe(p / "model"), no_utf8)


def _page_targets() -> Iterator[Target]:
    """Requests to the page: the first line is method and path, the rest the body."""

    def answered(place: Path) -> Any:
        from metavoxel.studio.qc import create_app
        from metavoxel.studio.review import Review

        first, _, body = (place / "request.txt").read_bytes().partition(b"\n")
        method, _, path = first.partition(b" ")
        app = create_app(Review(place / "derivative"))
        status, answer = asyncio.run(_asked(app, method, path, body))
        assert status < 500, f"{status}: {answer!r}"
        if status >= 400:  # JSON under /api, elsewhere a page with the sentence
            is_json = answer.startswith(b"{")
            raise MetaVoxelError(json.loads(answer)["error"] if is_json else f"{answer!r}.")
        return status

    yield Target("page", "request.txt", answered)


async def _asked(app: Any, method: bytes, path: bytes, body: bytes) -> tuple[int, bytes]:
    """Status and body of what an ASGI application answers."""
    address, _, query = path.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode("latin-1"),
        "path": unquote(address.decode("latin-1")),
        "raw_path": address,
        "query_string": query,
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "root_path": "",
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
