"""Two small worlds, of different data and seeds, with every kind of file that the program reads back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from multitask.data.sample import sample_uri
from tests.bitflips.commands import End, run

ROWS = {"train": 24, "dev": 16, "test": 6}
FILES = {
    "ids-sst-train.csv": "train", "ids-sst-dev.csv": "dev", "ids-sst-test-student.csv": "test",
    "quora-train.csv": "train", "quora-dev.csv": "dev", "quora-test-student.csv": "test",
}  # fmt: skip
JOBS = ["Nurse", "Driver", "Cook", "Teacher", "Painter", "Gardener"]

TRAIN = ["train", "recipe.json", "--data", "data", "--storage", "runs", "--quiet"]
BUNDLE = "runs/one/last"
EMBED = ["embed", BUNDLE, "texts.csv", "embedded", "--rows", "4", "--json", "--quiet"]
ANSWER = ["predict", BUNDLE, "--input", "texts.csv", "--task", "sst", "--column", "text", "--rows", "4"]
ANSWER += ["--output", "answered", "--json", "--quiet"]
PREDICT = ["predict", BUNDLE, "--data", "data", "--output", "predicted", "--quiet"]
FORMS = ("transformers", "sentence-transformers")  # which `minibert import` reads; nothing here reads ONNX


def _recipe(seed: int) -> dict[str, Any]:
    return {
        "name": "one",
        "encoder": "tiny",
        "seed": seed,
        "tasks": {"sst": {"head": "mlp"}, "quora": {"head": "mlp"}},
        "defaults": {"batch_size": 8, "dropout": 0.3},
        "stages": [
            {"name": "first", "tasks": ["quora"], "train": "full-model", "lr": 1e-3, "epochs": 3,
             "keep": {"best": "quora/accuracy"}},
            {"name": "last", "tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-3, "epochs": 1},
        ],
    }  # fmt: skip


def inputs(folder: Path, number: int) -> None:
    """Data, a recipe, texts and postings, of which no two worlds have the same."""
    sample = Path(sample_uri())
    (folder / "data").mkdir(parents=True)
    for name, split in FILES.items():
        header, *rows = (sample / name).read_text().splitlines()
        some = rows[number * ROWS[split] : (number + 1) * ROWS[split]]
        (folder / "data" / name).write_text("\n".join([header, *some]) + "\n")
    recipe = _recipe(7 + number)
    recipe["stages"] = [{"objective": "supervised", **stage} for stage in recipe["stages"]]
    (folder / "recipe.json").write_text(json.dumps(recipe))
    texts = [f"A {job.lower()} of world {number} who works by night." for job in JOBS]
    (folder / "texts.csv").write_text("\n".join(["id,text", *(f"{at},{text}" for at, text in enumerate(texts))]) + "\n")
    postings = [f"{job} {number},Company {at},Keeps the {job.lower()}'s books." for at, job in enumerate(JOBS)]
    (folder / "postings.csv").write_text("\n".join(["Title,Company,JobDescription", *postings]) + "\n")


def build(folder: Path, number: int) -> None:
    """The states below the folder: `fresh` has caches alone, `mid` a driver that was killed amid a stage, `done` all
    there is, and `stopped` the same but for the last word of `embed` and `predict`."""
    done, mid, fresh = (folder / state for state in ("done", "mid", "fresh"))
    inputs(done, number)
    shutil.copytree(done, mid)
    for command in (
        TRAIN, EMBED, ANSWER, PREDICT, make_index,
        *(["export", BUNDLE, "--format", form, "--output", f"exported/{form}", "--quiet"] for form in FORMS),
    ):  # fmt: skip
        _sound(run(command, done))
    shutil.copytree(mid, fresh)
    shutil.copytree(done / "runs" / "cache", fresh / "runs" / "cache")
    _sound(run(read_remote, fresh))
    if (ended := run(killed_in_mid_stage, mid)).status != KILLED:
        raise RuntimeError(f"the driver that is to be killed ended with {ended.status}:\n{ended.said}")
    shutil.copytree(done, stopped := folder / "stopped")
    for name in ("embedded", "answered"):
        (stopped / name / "_manifest.json").unlink()


def _sound(end: End) -> None:
    if end.status:
        raise RuntimeError(f"a command of the undisturbed world ended with {end.status}:\n{end.said}")


KILLED = 77


def killed_in_mid_stage() -> None:
    """Trains until the third checkpoint of the first stage is about to be written."""
    from multitask.experiment.checkpoints import CheckpointStore
    from ray_jobs.cli import main

    upload, saved = CheckpointStore._upload, []

    def until_then(store: CheckpointStore, checkpoint: Any) -> None:
        if len(saved) == 2:
            os._exit(KILLED)
        upload(store, checkpoint)
        saved.append(checkpoint)

    CheckpointStore._upload = until_then  # type: ignore[method-assign]
    import sys

    sys.argv = ["minibert", *TRAIN]
    main()


def make_index() -> None:
    """An index with every part: an approximate search, a completion, a suitability."""
    import torch

    from multitask.bundle.bundle import Bundle, bundle_of, source_bundle
    from multitask.inference.embed import TextEncoder
    from multitask.model.sources import load_source
    from multitask.recruit.index import build as built
    from multitask.recruit.index import save_index
    from multitask.recruit.postings import read_postings
    from multitask.storage.storage import Storage

    def with_head(heads: dict[str, str], mlm: str | None) -> Bundle:
        about = {"trained": list(heads), "max_length": 64}
        return bundle_of(tiny.model(heads, seed=world, mlm=mlm), tiny.tokenizer_json, about)

    tiny, world = source_bundle(load_source("tiny")), len(Path("texts.csv").read_text())
    world += int(Path("postings.csv").read_text().splitlines()[1].split()[1].partition(",")[0])
    with torch.no_grad():
        parts = {"completion": with_head({}, "tied"), "suitability": with_head({"suitability": "linear"}, None)}
        index = built(TextEncoder(tiny), read_postings("postings.csv").items, exact_up_to=2)
    save_index(Storage("index"), index, with_head({"sst": "linear"}, None), parts)


def ask_index() -> None:
    """What `minibert recruit serve` reads at its start, and an answer of each part."""
    from ray_jobs.recruit.messages import CompleteRequest, SearchRequest, SuitabilityRequest
    from ray_jobs.recruit.serve import Models

    models = Models.open("index")
    print(models.facts)
    for mode in ("hybrid", "dense", "bm25"):
        print(models.search([SearchRequest(text="cook who keeps books", k=6, mode=mode)]))
    print(models.complete([CompleteRequest(text="Keeps the books.", k=3)]))
    print(models.suitability([SuitabilityRequest(job="cook", application="I cook.", score=True)]))


def read_remote() -> None:
    """The token caches of a storage elsewhere, of which copies lie in this machine's temporary directory."""
    import fsspec

    from multitask.data.tokens import load_tokens
    from multitask.storage.storage import Storage

    memory, tokens = fsspec.filesystem("memory"), "cache/tokens"
    for file in sorted(Path("runs", tokens).iterdir()):
        memory.pipe_file(f"/elsewhere/{tokens}/{file.name}", file.read_bytes())
        table = load_tokens(Storage("memory://elsewhere"), f"{tokens}/{file.name}")
        print(file.name, table.input_ids.tolist(), table.labels.tolist(), list(table.ids))
