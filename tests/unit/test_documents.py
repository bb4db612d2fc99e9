"""What --json prints is as its schema says; of commands that train, in tests/integration/test_documented.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.data.sample import sample_uri
from multitask.storage.storage import Storage
from ray_jobs.cli import app
from ray_jobs.cli.documents import DOCUMENTS, schema_of
from tests.conftest import ROOT
from tests.documents import document, postings_file
from tests.helpers import tiny
from tests.unit.test_help import PATHS, helped

LINES = [
    ["evaluate one"],
    ["evaluate one --clean --classes"],
    ["evaluate one two --split train"],
    ["evaluate one two three --clean"],
    ["predict one --output predictions"],
    ["predict one --input texts.csv --task sst --column text --output moods"],
    ["embed tiny texts.csv vectors", "embed tiny texts.csv vectors"],
    ["average one two --output mean"],
    ["ensemble one two --output both"],
    ["ensemble one two --output fitted --weights fitted --data SAMPLE"],
    ["calibrate one --output calibrated"],
    ["export tiny --format transformers --output elsewhere", "import elsewhere --output back"],
    ["doctor --storage ."],
    ["new mine"],
    ["data check demo"],
    ["data check demo --leaks"],
    ["data show demo --task quora"],
    ["recruit prepare postings.jsonl --output jobs", "recruit calibrate judge --data jobs --output cooled",
     "recruit measure judge --data jobs"],
    ["recruit index tiny postings.jsonl --output index", "recruit search index nurse -k 2"],
    ["recruit suitability judge job application"],
    ["recruit suitability judge job application --score"],
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundles, texts and postings."""
    place = tmp_path_factory.mktemp("documents")
    for seed, name in enumerate(("one", "two", "three"), start=3):
        made = bundle_of(tiny().model({"sst": "mlp"}, seed=seed), tiny().tokenizer_json, {"trained": ["sst"]})
        save_bundle(Storage(str(place)), name, made)
    about = {"trained": ["suitability"], "tasks": ["suitability"], "max_length": 32}
    judge = bundle_of(tiny().model({"suitability": "mlp"}, seed=3), tiny().tokenizer_json, about)
    save_bundle(Storage(str(place)), "judge", judge)
    (place / "texts.csv").write_text("id,text\n1,one\n2,\n3,two\n")
    postings_file(place / "postings.jsonl")
    return place


@pytest.mark.parametrize("lines", LINES, ids=lambda lines: lines[-1])
def test_what_json_prints_is_as_the_schema_says(
    lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for line in lines:
        document(line.replace("SAMPLE", sample_uri()))


@pytest.mark.filterwarnings("ignore")  # of torch, whose function this is
def test_what_json_prints_of_broken_agreements_is_as_the_schema_says() -> None:
    assert not document("check torch.nn.functional:mse_loss", status=2)["kept"]


def test_every_command_with_json_has_a_schema_and_every_schema_a_command() -> None:
    assert {" ".join(path) for path in PATHS if re.search(r"^ +--json ", helped(path), re.MULTILINE)} == set(DOCUMENTS)


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_schema_is_one_and_refuses_what_is_not_the_document(command: str) -> None:
    schema = schema_of(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    for wrong in ({}, {"strange": 1}, [{}], "text", None):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def printed(*words: str) -> Any:
    return json.loads(CliRunner().invoke(app, ["schema", *words], catch_exceptions=False).stdout)


def test_the_command_prints_the_schema() -> None:
    assert printed("data", "show") == schema_of("data show")
    known = json.loads((ROOT / "multitask/assets/results.schema.json").read_text())
    assert printed("sweep")["$defs"] == known["$defs"]
