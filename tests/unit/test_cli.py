"""The `minibert` command in shells, pipes and scripts."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multitask import __version__
from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.data.sample import sample_uri
from multitask.storage.sealed import read_document
from multitask.storage.storage import Storage
from ray_jobs.cli import app, main
from tests.conftest import ROOT
from tests.helpers import tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made = bundle_of(tiny().model({"sst": "mlp"}, seed=3), tiny().tokenizer_json, {"trained": ["sst"]})
    save_bundle(Storage(str(folder)), "bündel", made)
    return str(folder / "bündel")


def minibert(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs", *words],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def document(*words: str) -> Any:
    """What --json prints; all of standard output must be it."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_help_and_version_are_there_in_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said, _ = minibert("--help").communicate()
    assert minibert("--version").communicate()[0].decode() == f"minibert {__version__}\n"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert said.decode().startswith("Usage: minibert ")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of both, as the CPU has it
    assert seconds < 1.0


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("minibert train bertaar/para-sts_", {"bertaar/para-sts_cosine-sst_last"}),
        ("minibert evaluate runs/demo/sst --data g", {"glue"}),
        ("minibert train demo --device ", {"auto", "cpu", "gpu"}),
        ("minibert export tiny --format s", {"sentence-transformers"}),
        ("minibert recruit se", {"search", "serve"}),
        ("minibert evaluate runs/demo/sst --split d", {"dev"}),
        ("minibert track runs/demo --to w", {"wandb"}),
        ("minibert schema da", {"data"}),
    ],
)
def test_the_shell_completes(line: str, offered: set[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    said, _ = minibert(_MINIBERT_COMPLETE="complete_bash", **words).communicate()
    assert set(said.decode().split()) >= offered
    assert all(word.startswith(line.split(" ")[-1]) for word in said.decode().split())


@pytest.mark.slow
def test_a_terminal_without_the_signs_gets_escapes(bundle: str) -> None:
    plain = {"PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    run = minibert("evaluate", bundle, "--data", sample_uri(), **plain)
    said, errors = run.communicate()
    assert run.returncode == 0, errors
    assert b"sst/accuracy" in said and rb"b\xfcndel" in said and b"|" in said
    assert all(byte < 128 for byte in said)


@pytest.mark.slow
def test_a_reader_that_leaves_stops_it_with_one_line(tmp_path: Path) -> None:
    run = minibert("train", "demo", "--storage", str(tmp_path), "--set", "defaults.epochs=1")
    assert run.stdout and run.stderr
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read().decode().splitlines()[-1:] == ["minibert: stopped: nothing reads its output any more"]
    assert run.wait() == 1


def test_json_of_evaluate_and_predict(bundle: str, tmp_path: Path) -> None:
    found = document("evaluate", bundle)
    assert [row["metric"] for row in found["tasks"]] == ["sst/accuracy"] and found["split"] == "dev"
    files = document("predict", bundle, "--output", str(tmp_path / "out"))["files"]
    assert {row["split"]: row["rows"] for row in files} == {"dev": 150, "test": 60}
    assert all(Path(row["file"]).is_file() for row in files)


def test_json_of_batches_is_the_manifest(bundle: str, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("id,text\n1,one\n2,\n3,two\n")
    words = ("embed", bundle, str(tmp_path / "texts.csv"), str(tmp_path / "vectors"))
    found = document(*words)
    assert found["rows"] == 2 and found["quarantined"]["rows"] == 1
    kept = json.loads((tmp_path / "vectors" / "_manifest.json").read_text())
    assert document(*words) == found == {key: value for key, value in kept.items() if key != "seal"}


def test_json_of_data_check_has_every_row_that_is_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{at}\tsome words here\t{at}\n" for at in range(30))
    (tmp_path / "ids-sst-dev.csv").write_text(f"id\tsentence\tsentiment\n{rows}")
    (report,) = document("data", "check", str(tmp_path))
    assert report["rows"] == 5 and report["labels"] == {str(at): 1 for at in range(5)}
    assert len(report["quarantined"]) == 25 and report["problem"] is None
    assert report["words"] == {"least": 3, "median": 3, "p95": 3, "most": 3}


def test_json_of_doctor() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert {row["subject"] for row in json.loads(done.stdout)} >= {"python", "cpu", "ray"}


@pytest.mark.slow
def test_what_the_user_can_mend_leaves_standard_output_empty(tmp_path: Path) -> None:
    run = minibert("evaluate", str(tmp_path / "nowhere"), "--json")
    said, errors = run.communicate()
    assert run.returncode == 2 and said == b"" and errors.decode().count("\n") == 1


@pytest.mark.slow
def test_quiet_training_prints_its_outcome_alone_and_json_what_results_json_holds(tmp_path: Path) -> None:
    words = ("train", "demo", "--storage", str(tmp_path), "--set", "defaults.max_examples=40")
    words += ("--set", "defaults.epochs=1")
    quiet = CliRunner().invoke(app, [*words, "--quiet"]).stdout
    assert "step" not in quiet and "reading" not in quiet and "bundle:" in quiet
    assert document(*words) == read_document(Storage(str(tmp_path / "demo")), "results.json")


@pytest.mark.parametrize("before", [None, "0"])
def test_torch_is_told_of_large_pages_unless_the_user_has_said(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["minibert", "--version"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before or "")
    if before is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    with pytest.raises(SystemExit):
        main()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (before or "1")
