"""A task of one's own from its files to a bundle that knows it elsewhere; nothing is registered."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multitask import load_bundle
from multitask.bundle.bundle import read_bundle, save_bundle
from multitask.data.files import find_file
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.recipe.checks import build_recipe
from multitask.recipe.data_check import check_data, render
from multitask.recipe.parsing import parse_yaml
from multitask.report import write_report
from multitask.storage.storage import Storage
from multitask.tasks.cells import read_several
from multitask.tasks.labels import KINDS
from multitask.tasks.own import definitions
from multitask.tasks.table import TASKS
from ray_jobs.bundles.scoring import evaluate_bundle, predict_bundle
from ray_jobs.driver.prepare import prepare
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.helpers import difference, tree_driver
from tests.unit.test_own_task import TEXT


def write_own(folder: Path, say: Any = str) -> dict[str, Any]:
    """The sample's SST files as a task of two columns, the label as `say` puts it, and its `tasks:` entry's files."""
    for split in ("train", "dev", "test"):
        found = read_examples(find_file(sample_uri(), TASKS["sst"], split), TASKS["sst"], labelled=split != "test")  # type: ignore[arg-type]
        with open(folder / f"tone-{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "tone"])
            writer.writerows([e.texts[0], "" if e.label is None else say(int(e.label))] for e in found.examples)
    return {split: str(folder / f"tone-{split}.csv") for split in ("train", "dev", "test")}


FIVE = ["awful", "bad", "so-so", "good", "great"]
LABELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "words": (lambda label: FIVE[label], {"words": FIVE}),
    "from 0": (str, {"kind": "classes", "high": 4}),
    "from 1": (lambda label: str(label + 1), {"kind": "classes", "low": 1, "high": 5}),
}


def trained(folder: Path, which: str = "words") -> tuple[dict[str, Any], Path]:
    """results.json and the bundle's folder of an own task, trained on files whose labels are said that way."""
    folder.mkdir(parents=True, exist_ok=True)
    say, label = LABELS[which]
    define = {"columns": ["text"], "label": {"column": "tone", **label}}
    tasks = {"tone": {"define": define, **write_own(folder, say)}}
    driver = tree_driver(folder / "runs", [{"name": "a", "tasks": ["tone"], "epochs": 2}], tasks=tasks)
    with StopRequest("") as stop:
        results = driver.run(stop)
    return results, folder / "runs" / "tree" / results["stages"][-1]["bundle"]


def test_labels_are_the_same_by_words_and_by_numbers(tmp_path: Path) -> None:
    found = {which: trained(tmp_path / which, which) for which in LABELS}
    weights = [read_bundle(Storage(str(bundle))).tensors for _, bundle in found.values()]
    assert difference(weights[0], weights[1]) == difference(weights[0], weights[2]) == 0
    assert weights[0]["heads.tone.layers.0.weight"].shape == (5, 64)
    lines = {
        which: [line.rsplit(" , ", 1)[1].strip() for line in said.splitlines()[1:]]
        for which, (_, bundle) in found.items()
        for said in [(bundle.parent / "predictions" / "tone-test-output.csv").read_text()]
    }
    assert lines["words"] == [FIVE[int(label)] for label in lines["from 0"]]
    assert lines["from 1"] == [str(int(label) + 1) for label in lines["from 0"]]
    assert len(set(lines["words"])) > 1


def test_a_bundle_knows_its_own_task_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, place = trained(tmp_path)
    definition = results["data"]["tone"]["definition"]
    assert definition["label"]["words"] == FIVE
    accuracy = results["stages"][-1]["metrics"]["tone/accuracy"]
    place.rename(tmp_path / "bundle")
    bundle = read_bundle(Storage(str(tmp_path / "bundle")))
    assert definitions({"tone": bundle.specs["tone"]}) == {"tone": definition}
    assert json.loads((tmp_path / "bundle" / "model.json").read_text())["specs"] == {"tone": definition}

    capsys.readouterr()
    evaluate_bundle(str(tmp_path / "bundle"), str(tmp_path), "dev", screen=Screen(as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert [(row["metric"], row["value"], row["rows"]) for row in found["tasks"]] == [("tone/accuracy", accuracy, 150)]
    predict_bundle(str(tmp_path / "bundle"), str(tmp_path), str(tmp_path / "out"), Screen())
    lines = (tmp_path / "out" / "predictions" / "tone-dev-output.csv").read_text().splitlines()
    assert lines[0] == "id \t Predicted_tone " and {line.rsplit(" , ", 1)[1].strip() for line in lines[1:]} <= {*FIVE}
    pages = write_report(str(tmp_path / "runs" / "tree"))
    assert any("tone" in Path(page).read_text() for page in pages)
    with pytest.raises(UserError, match=r"bundle '.*bundle': no experiment around it says .*; give --data"):
        evaluate_bundle(str(tmp_path / "bundle"), None, "dev", screen=Screen(as_json=True))


def test_a_bundle_in_its_experiment_is_measured_on_what_it_was_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    results, place = trained(tmp_path)

    def measured(split: str, data: str | None = None) -> dict[str, Any]:
        capsys.readouterr()
        evaluate_bundle(str(place), data, split, screen=Screen(as_json=True))
        (row,) = json.loads(capsys.readouterr().out)["tasks"]
        return row

    row = measured("dev")
    assert row["value"] == results["stages"][-1]["metrics"]["tone/accuracy"]
    assert row["source"] == str(tmp_path / "tone-dev.csv") == results["data"]["tone"]["source"]["dev"]
    assert measured("train")["source"] == str(tmp_path / "tone-train.csv")
    predict_bundle(str(place), None, str(tmp_path / "out"), Screen())
    assert (tmp_path / "out" / "predictions" / "tone-test-output.csv").is_file()
    assert not list((tmp_path / "out").glob("*.zip")), "CS224N's, which has no such task"

    with pytest.raises(UserError, match=r"tone-test\.csv: .*tone is missing"):
        measured("test")  # it has no labels
    assert "not what it was" not in caplog.text
    (tmp_path / "tone-dev.csv").rename(tmp_path / "tone-test.csv")
    assert measured("test")["value"] == row["value"]
    assert "tone-test.csv: not what it was when the bundle was trained" in caplog.text
    with pytest.raises(UserError, match=r"tone was trained with .*tone-dev\.csv, which is not there; give --data"):
        measured("dev")
    with pytest.raises(UserError, match=r"--split 'tset': valid: train, dev, test; did you mean test\?"):
        measured("tset")


def test_data_that_nothing_reads_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_own(tmp_path)
    define = {"columns": ["text"], "label": {"column": "tone", "words": ["0", "1", "2", "3", "4"]}}
    stages = [{"name": "a", "tasks": ["tone"], "train": "full-model", "lr": 1e-3}]
    tree = {"name": "n", "encoder": "tiny", "tasks": {"tone": {"define": define, **files}}, "stages": stages}
    prepare(build_recipe(tree, "n"), sample_uri(), Storage(str(tmp_path / "runs")))
    assert f"--data {sample_uri()}: nothing of it is read" in caplog.text
    caplog.clear()
    prepare(build_recipe(tree, "n"), None, Storage(str(tmp_path / "runs")))
    assert "nothing of it is read" not in caplog.text


def test_a_bundle_of_before_own_tasks_is_read(tmp_path: Path) -> None:
    _, place = trained(tmp_path)
    bundle = read_bundle(Storage(str(place)))
    plain = replace(bundle, heads={}, tensors={n: t for n, t in bundle.tensors.items() if n.startswith("encoder.")})
    save_bundle(Storage(str(tmp_path)), "plain", plain)
    assert "specs" not in json.loads((tmp_path / "plain" / "model.json").read_text())
    assert read_bundle(Storage(str(tmp_path)), "plain").specs == TASKS


def test_an_own_head_comes_along_only_for_the_same_task(tmp_path: Path) -> None:
    _, place = trained(tmp_path)
    define = {"columns": ["text"], "label": {"column": "tone", "words": FIVE}}
    stages = [{"name": "b", "tasks": ["tone"]}]
    tasks = {"tone": {"define": define, **files(tmp_path)}}
    driver = tree_driver(tmp_path / "two", stages, tasks=tasks, encoder=str(place))
    assert driver.prepared.start.heads == {"tone": "linear"}
    tasks["tone"]["define"] = {**define, "label": {"column": "tone", "words": FIVE[::-1]}}
    with pytest.raises(UserError, match=r"tasks.tone: '.*' brings a head for another task of that name, .*awful"):
        tree_driver(tmp_path / "two", stages, tasks=tasks, encoder=str(place))


def files(folder: Path) -> dict[str, str]:
    return {split: str(folder / f"tone-{split}.csv") for split in ("train", "dev")}


def test_nothing_is_registered(tmp_path: Path) -> None:
    before = dict(TASKS)
    trained(tmp_path)
    assert before == TASKS
    with pytest.raises(UserError, match="unknown task 'tone'"):
        build_recipe(parse_yaml(TEXT.replace("define:", "note: none #"), "x"), "x")


def test_data_check_covers_own_tasks(tmp_path: Path) -> None:
    write_own(tmp_path, lambda label: FIVE[label])
    text = "{tasks: {tone: {define: {columns: [text], label: {column: tone, words: [awful, bad, so-so, good, great]}}, "
    (tmp_path / "map.yaml").write_text(text + "train: tone-train.csv, test: tone-test.csv}}}")
    train, test = check_data(str(tmp_path / "map.yaml"))
    assert (train.rows, train.quarantined, test.labels) == (600, (), ())
    assert "awful: " in render([train]) and "great: " in render([train])


@pytest.mark.parametrize("objective", ["mlm", "ranking", "completion", "supervised"])
@pytest.mark.parametrize("pair", ["separate", "joined"])
def test_every_objective_trains_an_own_pair_task(tmp_path: Path, objective: str, pair: str) -> None:
    label = {"column": "is_duplicate", "kind": "binary", "words": ["no", "yes"], "similar": "yes"}
    define = {"columns": ["sentence1", "sentence2"], "label": label}
    same = {
        "define": define,
        "pair": pair,
        **{split: f"{sample_uri()}/quora-{split}.csv" for split in ("train", "dev")},
    }
    stage = {"name": "a", "tasks": ["same"], "objective": objective}
    stage |= {"smart": {}} if objective == "supervised" else {}
    if pair == "joined" and objective in ("ranking", "completion"):
        with pytest.raises(UserError, match=r"stages.a.tasks: 'same', whose pairs are joined, has no similar pairs"):
            tree_driver(tmp_path, [stage], tasks={"same": same})
        return
    driver = tree_driver(tmp_path, [stage], tasks={"same": same})
    with StopRequest("") as stop:
        results = driver.run(stop)
    metrics = results["stages"][-1]["metrics"]
    assert metrics["same/accuracy"] is not None
    start = driver.prepared.start
    moved = read_bundle(Storage(str(tmp_path / "tree")), results["stages"][-1]["bundle"]).tensors
    before = read_bundle(driver.storage, start.path).tensors
    assert any(not torch.equal(moved[name], before[name]) for name in before)


PARTS = {"price": "costs too much", "staff": "has rude staff", "wait | queue": "takes for ever"}


def write_about(folder: Path) -> dict[str, str]:
    """Complaints about any of PARTS, none too, as a task's train and dev files."""
    rows = [
        {"text": f"{thing} {' and '.join(PARTS[part] for part in about) or 'is fine'}", "about": list(about)}
        for thing in ("this hotel", "that train", "their shop", "my phone", "the waiter")
        for count in range(4)
        for about in combinations(PARTS, count)
    ]
    for split, part in {"train": rows[:32], "dev": rows[32:]}.items():
        (folder / f"about-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return {split: str(folder / f"about-{split}.jsonl") for split in ("train", "dev")}


@pytest.mark.parametrize("metric", KINDS["multilabel"].metrics)
def test_several_classes_at_once_from_a_file_to_predictions(
    tmp_path: Path, metric: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    label = {"column": "about", "kind": "multilabel", "words": [*PARTS], "threshold": {"price": 0.3}}
    task = {"define": {"columns": ["text"], "label": label, "metric": metric}, **write_about(tmp_path)}
    driver = tree_driver(tmp_path, [{"name": "a", "tasks": ["about"], "epochs": 12, "lr": 3e-3}], tasks={"about": task})
    with StopRequest("") as stop:
        results = driver.run(stop)
    row = results["stages"][-1]
    assert row["metrics"][f"about/{metric}"] > 0.7
    assert results["data"]["about"]["definition"]["label"]["threshold"] == {"price": 0.3}
    place = tmp_path / "tree" / row["bundle"]
    assert read_bundle(Storage(str(place))).specs["about"].label.thresholds == (0.3, 0.5, 0.5)

    capsys.readouterr()
    evaluate_bundle(str(place), None, "dev", screen=Screen(as_json=True))
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (found["value"], found["majority_baseline"]) == (row["metrics"][f"about/{metric}"], None)

    model = load_bundle(str(place), device="cpu")
    texts = [json.loads(line)["text"] for line in Path(task["dev"]).read_text().splitlines()]
    predicted = model.predict("about", texts)
    assert np.array_equal(predicted, (model.probabilities("about", texts) > [0.3, 0.5, 0.5]).astype(float))
    with open(place.parent / "predictions" / "about-dev-output.csv", newline="") as file:
        lines = [line[1].strip() for line in [*csv.reader(file, skipinitialspace=True)][1:]]
    of = model.bundle.specs["about"].label
    assert [read_several(line, "about", of, ()) for line in lines] == [tuple(some) for some in predicted]
    assert len({*lines}) > 2
    assert any("about" in Path(page).read_text() for page in write_report(str(tmp_path / "tree")))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_several_classes_are_smoothed_too(tmp_path: Path) -> None:
    label = {"column": "about", "kind": "multilabel", "words": [*PARTS]}
    task = {"define": {"columns": ["text"], "label": label}, **write_about(tmp_path)}
    stage = {"name": "a", "tasks": ["about"], "smart": {}}
    driver = tree_driver(tmp_path, [stage], tasks={"about": task})
    with StopRequest("") as stop:
        assert driver.run(stop)["stages"][-1]["metrics"]["about/f1_micro"] is not None
