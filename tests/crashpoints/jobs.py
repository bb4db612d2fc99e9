"""The jobs whose crashes are tried: commands of `minibert`, what lies there before, and what has to come of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from multitask.data.sample import sample_uri

ROWS = {"train": 16, "dev": 10, "test-student": 4}
TIMES = {"attempt", "seconds", "training_seconds", "examples_per_second", "log", "submission_id", "versions", "seal"}
STAMP = re.compile(r"(TorchTrainer_\w+?_\d{5}_\d+_)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
EXPERIMENT = "crash"
Results = dict[str, str]


@dataclass(frozen=True)
class Job:
    """before: commands whose work lies there already. command: what is traced, and given again after a crash.
    results: what came of it, asked where it ran. share: of all states, how many are this job's."""

    command: list[str]
    results: Callable[[], Results]
    before: list[list[str]]
    share: float


def write_inputs(folder: Path) -> None:
    """Recipes, the tasks' files with a few rows, texts and postings."""
    (folder / "data").mkdir(parents=True)
    for file in sorted(Path(sample_uri()).glob("*.csv")):
        rows = next(count for split, count in ROWS.items() if file.stem.endswith(split))
        lines = file.read_text().splitlines(keepends=True)
        (folder / "data" / file.name).write_text("".join(lines[: rows + 1]))
    for name, recipe in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**TOP, "stages": recipe}))
    (folder / "texts.txt").write_text("".join(f"Text {number} of a few.\n" for number in range(12)))
    posting = '{{"Title": "Nurse {0}", "Company": "Clinic", "JobDescription": "Care for {0} patients."}}\n'
    (folder / "postings.jsonl").write_text("".join(posting.format(number) for number in range(6)))


TOP: dict[str, Any] = {
    "name": EXPERIMENT,
    "encoder": "tiny",
    "tasks": {"sst": {"head": "linear"}, "quora": {"head": "linear"}},
    "defaults": {"batch_size": 8, "max_examples": 16, "dropout": 0.3, "epochs": 1, "checkpoint_steps": 1, "lr": 1e-3},
}
MLM = {"name": "mlm", "objective": "mlm", "tasks": ["sst"], "train": "full-model"}
RANK = {"name": "rank", "objective": "ranking", "tasks": ["quora"], "train": "full-model"}
PARA = {"name": "para", "tasks": ["quora"], "train": "full-model"}
LAST = {"name": "last", "tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-2}
BEST = {"keep": {"best": "sst/accuracy"}}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "train": [MLM, RANK, {**LAST, **BEST, "epochs": 2}],
    "seeds": [PARA, LAST],
    "fresh": [{**PARA, "lr": 5e-3}, LAST],
    "sweep": [{**PARA, "lr": {"sweep": [1e-2, 1e-3], "by": "quora/accuracy"}}, LAST],
    "short": [PARA],
}


def jobs(inputs: Path, base: str = "") -> dict[str, Job]:
    """base: where the storages lie, the working directory or a bucket's URI with a slash."""
    data, runs, out = str(inputs / "data"), f"{base}runs", f"{base}out"

    def train(recipe: str, *more: str) -> list[str]:
        return ["train", str(inputs / f"{recipe}.yaml"), "--data", data, "--storage", runs, "--quiet", *more]

    bundle, trained = f"{runs}/{EXPERIMENT}/para", [train("short")]
    left, files = partial(experiment, runs), partial(digests, out)
    return {
        "train": Job(train("train"), left, [], 0.2),
        "sweep": Job(train("sweep"), left, [], 0.12),
        "--seeds 2": Job(train("seeds", "--seeds", "2"), left, [], 0.11),
        "--fresh": Job(train("fresh", "--fresh"), left, trained, 0.11),
        "predict": Job(["predict", bundle, "--output", out, "--data", data], files, trained, 0.06),
        "export": Job(["export", bundle, "--format", "transformers", "--output", out], files, trained, 0.06),
        "embed": Job(["embed", "tiny", str(inputs / "texts.txt"), out, "--rows", "4"], files, [], 0.06),
        "index": Job(["recruit", "index", "tiny", str(inputs / "postings.jsonl"), "--output", out], files, [], 0.06),
    }


def prepare_process(temporary: Path) -> None:
    """In a child of the warm process, before its command: one thread, no pauses, and Tune's place taken by a loop,
    since who decides which trial runs when is not what is tried here."""
    import torch

    from multitask.experiment.lease import Lease
    from ray_jobs.driver import driver

    torch.set_num_threads(1)
    temporary.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    driver.Lease = partial(Lease, settle=0.0)  # type: ignore[misc,assignment]
    driver.run_trials = _in_turn  # type: ignore[assignment]


def _in_turn(jobs: Mapping[str, Any], sweep: Any, stopped: Any, workers: Any, screen: Any, stop: Any, lags: Any) -> Any:
    from ray_jobs.runners.local import LocalRunner

    with LocalRunner("auto", screen, stop) as runner:
        for job in jobs.values():
            runner.run(job)
    return dict.fromkeys(jobs, "finished")


def command(words: list[str], place: Path) -> int:
    """Runs it in `place` as the console script does; its exit status."""
    from ray_jobs.cli.program import main

    os.chdir(place)
    sys.argv = ["minibert", *words]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def digests(uri: str) -> Results:
    """Every file's that has no leading dot."""
    from multitask.storage.storage import Storage

    storage = Storage(uri)
    names = sorted(file.removeprefix(storage.root).strip("/") for file in storage.fs.find(storage.root))
    return {
        name: hashlib.sha256(_plain(storage.read_bytes(name))).hexdigest()
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
    }


def _plain(content: bytes) -> bytes:
    return STAMP.sub(r"\1", content.decode()).encode() if content.isascii() else content


def experiment(uri: str) -> Results:
    """What a driver has left: each stage's weights, moments, ids fed, metrics and predictions, and the results."""
    from multitask.experiment.experiment_file import Experiment
    from multitask.storage.storage import Storage

    storage = Storage(uri)
    records = Experiment(storage, EXPERIMENT)
    folder = storage.at(EXPERIMENT)
    found = {"results.json": _timeless(folder.read_json("results.json"))}
    trainers = {key: record.trainer for key, record in records.stages.items()}
    trainers |= {f"superseded {at}": entry["trainer"] for at, entry in enumerate(records.superseded)}
    known = {key: [record.status, record.fingerprint] for key, record in records.stages.items()}
    found["experiment.json"] = _timeless([known, trainers])
    for key, trainer in trainers.items():
        found |= {f"{key} {what}": digest for what, digest in _stage(folder.at(trainer)).items()}
    return found


def _stage(folder: Any) -> Results:
    from multitask.experiment.checkpoints import CheckpointStore
    from multitask.experiment.records import read_records
    from multitask.experiment.stage_job import read_outcome
    from multitask.storage.sealed import read_sealed

    checkpoint = CheckpointStore(folder.at("checkpoints")).newest()
    assert checkpoint is not None, f"{folder.uri}: no checkpoint"
    found = {
        "outcome": _timeless(read_outcome(folder)),
        "metrics": _timeless([record.to_json() for record in read_records(folder)]),
        "state": _timeless(asdict(checkpoint.state)),
    }
    for part in ("weights", "optimizer", "extra"):
        found[part] = _tensors(getattr(checkpoint, part))
    for name, content in read_sealed(folder, "bundle").items():
        found[f"bundle {name}"] = hashlib.sha256(_plain(content)).hexdigest()
    for name in folder.list("predictions"):
        if not name.startswith("."):
            found[f"predictions/{name}"] = hashlib.sha256(folder.read_bytes(f"predictions/{name}")).hexdigest()
    for name in folder.list():
        if name.endswith(".zip"):
            found[name] = hashlib.sha256(folder.read_bytes(name)).hexdigest()
    return found


def _tensors(tensors: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _timeless(value: Any) -> str:
    return STAMP.sub(r"\1", json.dumps(_without_times(value), sort_keys=True))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list | tuple) else value
