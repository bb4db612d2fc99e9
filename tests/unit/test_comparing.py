"""`minibert evaluate` of several bundles, and without the rows that training files hold."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.data.files import find_file
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.measure.compare import holm
from multitask.measure.metrics import score
from multitask.storage.storage import Storage
from multitask.tasks.own import known
from multitask.tasks.table import TASKS
from ray_jobs.bundles.comparing import _check_rows
from ray_jobs.bundles.scoring import opened, outputs_of
from ray_jobs.cli import app
from ray_jobs.screen import Screen
from tests.helpers import table_of, tiny

HEADS = {"sst": "mlp", "quora": "mlp", "sts": "cosine"}
ROWS = 40  # of each file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles a, b and c, and data: the sample's first rows, of whose dev rows every fourth is in training too."""
    folder = tmp_path_factory.mktemp("compared")
    for seed, name in enumerate("abc"):
        heads = HEADS if name != "c" else {"sst": "linear", "quora": "linear"}
        made = bundle_of(tiny().model(heads, seed=seed), tiny().tokenizer_json, {"trained": [*heads]})
        save_bundle(Storage(str(folder)), name, made)
    (folder / "data").mkdir()
    for task in HEADS:
        for split in ("train", "dev"):
            file = Path(find_file(sample_uri(), TASKS[task], split))  # type: ignore[arg-type]
            (folder / "data" / file.name).write_text("\n".join(file.read_text().splitlines()[: ROWS + 1]) + "\n")
    train = folder / "data" / "quora-train.csv"
    dev = (folder / "data" / "quora-dev.csv").read_text().splitlines()
    shouted = [line.upper() for line in dev[1::4]]
    train.write_text(train.read_text() + "\n".join(shouted) + "\n")
    return folder


def told(folder: Path, *words: str) -> Any:
    paths = [str(folder / word) if len(word) == 1 else word for word in words]
    done = CliRunner().invoke(app, ["evaluate", *paths, "--data", str(folder / "data"), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(folder: Path, *words: str) -> str:
    paths = [str(folder / word) if len(word) == 1 else word for word in words]
    done = CliRunner().invoke(app, ["evaluate", *paths, "--data", str(folder / "data")])
    assert done.exit_code == 1 and done.exception is not None
    return str(done.exception)


def test_each_bundle_is_compared_with_the_first(folder: Path) -> None:
    alone = {name: {row["metric"]: row["value"] for row in told(folder, name)["tasks"]} for name in "ab"}
    found = told(folder, "a", "b")
    assert found["baseline"] == str(folder / "a") and found["resamples"] == 10_000
    rows = {row["metric"]: row for row in found["comparisons"]}
    assert list(rows) == ["sst/accuracy", "quora/accuracy", "sts/pearson", "overall/mean", "overall/normalised"]
    for key, value in alone["a"].items():
        assert (rows[key]["baseline"], rows[key]["value"], rows[key]["rows"]) == (value, alone["b"][key], ROWS)
        assert rows[key]["difference"] == alone["b"][key] - value
    assert [row["p_holm"] for row in rows.values()] == holm([row["p"] for row in rows.values()])
    assert rows["sts/pearson"]["sides"] is None and rows["overall/mean"]["sides"] is None
    assert rows["overall/mean"]["rows"] == 3 * ROWS


def test_tasks_that_not_all_have_are_left_out_and_heads_may_differ(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", *(str(folder / name) for name in "abc"), "--data", str(folder / "data")]
    )
    assert done.exit_code == 0, done.output
    assert f"{folder}/a: sts is left out: not all bundles have it" in done.output
    assert "4 comparisons (2 metrics x 2 bundles) are made at once: go by p (Holm)" in done.output
    assert "overall" not in done.output and "McNemar" in done.output


def test_rows_that_change_sides_are_written(folder: Path, tmp_path: Path) -> None:
    found = told(folder, "a", "b", "--rows", str(tmp_path / "changed.csv"))
    with open(tmp_path / "changed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sides = {row["metric"].split("/")[0]: row["sides"] for row in found["comparisons"] if row["sides"]}
    assert sum(side["gained"] + side["lost"] for side in sides.values()) == len(rows) > 0
    for task, side in sides.items():
        for change in ("gained", "lost"):
            assert sum(row["task"] == task and row["change"] == change for row in rows) == side[change]
    dev = read_examples(find_file(str(folder / "data"), TASKS["sst"], "dev"), TASKS["sst"], labelled=True).examples
    labels = {example.id: f"{example.label:g}" for example in dev}
    for row in rows:
        assert (row["baseline"] == row["label"], row["prediction"] == row["label"]) == (
            row["change"] == "lost",
            row["change"] == "gained",
        )
        assert row["task"] != "sst" or labels[row["id"]] == row["label"]


def test_clean_leaves_out_rows_whose_text_is_in_a_training_file(folder: Path) -> None:
    """Both ways of measuring leave out the dev rows that stand, in capitals, in quora-train, and nothing else."""
    bundle, place = opened(str(folder / "a"), str(folder / "data"), ["dev"])
    train = {
        text.casefold()
        for task in HEADS
        for example in read_examples(place.find(TASKS[task], "train"), TASKS[task], labelled=True).examples
        for text in example.texts
    }
    found = told(folder, "a", "--clean")
    both = told(folder, "a", "b", "--clean")["clean"]["comparisons"]
    said = outputs_of(bundle, place, ["dev"], Screen(quiet=True))
    for one, clean in zip(said, found["clean"]["tasks"], strict=True):
        task, table, predicted = one.spec.name, one.table, one.predicted((1.0,))
        dev = read_examples(place.find(TASKS[task], "dev"), TASKS[task], labelled=True).examples
        kept = [at for at, example in enumerate(dev) if train.isdisjoint(map(str.casefold, example.texts))]
        assert clean["rows"] == len(kept) < ROWS + (task != "quora")
        expected = score(TASKS[task].metric, predicted.of([at in kept for at in range(ROWS)]), table.labels[kept])
        assert (clean["value"], clean["interval"]) == (expected.value, [*(expected.interval or ())])
        compared = next(row for row in both if row["metric"] == clean["metric"])
        assert (compared["rows"], compared["baseline"]) == (clean["rows"], clean["value"])
    assert found["tasks"] == told(folder, "a")["tasks"]
    assert found["clean"]["overall/mean"] != found["overall/mean"]


def test_where_no_row_is_unseen_it_says_so(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    (data / "ids-sst-train.csv").write_bytes((data / "ids-sst-dev.csv").read_bytes())
    for bundles in (["a"], ["a", "b"]):
        words = [*(str(folder / name) for name in bundles), "--data", str(data), "--clean"]
        said = CliRunner().invoke(app, ["evaluate", *words]).output
        assert "--clean: every dev row of sst has a text of a training file, so nothing is left" in said
    table = CliRunner().invoke(app, ["evaluate", *words, "--json"]).stdout
    row = next(row for row in json.loads(table)["clean"]["comparisons"] if row["metric"] == "sst/accuracy")
    assert (row["rows"], row["p"], row["sides"]) == (0, None, None)


def test_what_makes_no_sense_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert "which rows change sides is a matter of two bundles" in refused(folder, "a", "--rows", "x.csv")
    assert "given twice; compared are different ones" in refused(folder, "a", "b", "a")
    assert "given twice; compared are different ones" in refused(folder, "a", f"{folder}/a/")
    assert "is a directory; name a file" in refused(folder, "a", "b", "--rows", str(tmp_path))
    assert "every text of it is in a training file; valid: dev, test" in refused(
        folder, "a", "--clean", "--split", "train"
    )
    assert "--split 'def': valid: train, dev, test" in refused(folder, "a", "b", "--split", "def")
    lone = bundle_of(tiny().model({"cfimdb": "mlp"}), tiny().tokenizer_json, {"trained": ["cfimdb"]})
    save_bundle(Storage(str(folder)), "d", lone)
    assert "no task in common: " in refused(folder, "a", "d")
    assert "has no training file of cfimdb; --data names where they lie" in refused(folder, "d", "--clean")


def test_labels_must_mean_the_same(folder: Path) -> None:
    for name, words in (("f", ["bad", "good"]), ("g", ["good", "bad"])):
        specs = known({"tone": {"columns": ["text"], "label": {"column": "tone", "words": words}}}, name)
        model = replace(tiny(), specs=specs).model({"tone": "mlp"})
        save_bundle(Storage(str(folder)), name, bundle_of(model, tiny().tokenizer_json, {"trained": ["tone"]}))
    said = refused(folder, "f", "g")
    assert f"task tone: its label is classes bad, good to {folder}/f, classes good, bad to {folder}/g" in said


def test_rows_must_be_read_alike() -> None:
    one = table_of([[1]] * 4, [0, 1, 2, 3], per=1)
    _check_rows("sst", "a", one, "b", table_of([[9, 9]] * 4, [0, 1, 2, 3], per=1))
    with pytest.raises(UserError, match=r"task sst: a reads row example 2 with label 2.0 of made up where b reads"):
        _check_rows("sst", "a", one, "b", table_of([[1]] * 4, [0, 1, 4, 3], per=1))
    with pytest.raises(UserError, match=r"task sst: a reads 4 rows of made up, b 3"):
        _check_rows("sst", "a", one, "b", table_of([[1]] * 3, [0, 1, 2], per=1))
