"""An ensemble: bundles of different encoders, tokenizers, pairings and heads that answer as one."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from multitask import load_bundle
from multitask.bundle import ensemble as ensembles
from multitask.bundle.bundle import ENSEMBLE, Bundle, bundle_of, read_bundle, save_bundle
from multitask.bundle.ensemble import read_ensemble
from multitask.data.progress import Done, silent
from multitask.data.sample import sample_uri
from multitask.errors import UserError
from multitask.inference.files import file_outputs
from multitask.measure.ensembles import cross_fitted
from multitask.measure.evaluate import predicted_of
from multitask.measure.metrics import score
from multitask.model.multitask import MultitaskModel
from multitask.recipe.data_maps import place_of
from multitask.report import write_report
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage
from multitask.tasks.own import known
from ray_jobs.cli import app
from tests.helpers import OWN_TASKS, tiny

TEXTS = ["A warm, funny film.", "Two hours of nothing.", "How do I learn Spanish?"]
OTHERS = ["It is great.", "Nothing happens.", "What is the best way to learn Spanish?"]


def member(
    seed: int, heads: dict[str, str], *, joined: bool = False, width: int = 64, cased: bool = False, **about: Any
) -> Bundle:
    """An untrained model whose weights are spread out, so that its answers vary. joined: reads pairs of `same` as one
    sequence. width: of its encoder. cased: whether its tokenizer tells `A` from `a`."""
    own = {name: task["define"] for name, task in OWN_TASKS.items()}
    if joined:  # which learns from no similar pairs
        label = {key: value for key, value in own["same"]["label"].items() if key != "similar"}
        own["same"] = {**own["same"], "label": label, "joined": True}
    config = replace(tiny().config, hidden_size=width)
    torch.manual_seed(seed)
    model = MultitaskModel(config, "mean", heads, seed=seed, specs=known(own, "test"))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    tokenizer = json.loads(tiny().tokenizer_json)
    tokenizer["normalizer"]["lowercase"] = not cased
    return bundle_of(model, json.dumps(tokenizer), {"trained": list(heads), "trainer": f"T{seed}", **about})


MEMBERS = {
    "wide": lambda: member(1, {"sst": "mlp", "same": "interaction", "tones": "linear", "sts": "cosine"}),
    "narrow": lambda: member(
        2, {"sst": "linear", "same": "interaction", "tones": "mlp"}, joined=True, width=32, cased=True, max_length=16
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members, an ensemble of each weighting, and the map of their files."""
    folder = tmp_path_factory.mktemp("ensembles")
    for name, make in MEMBERS.items():
        save_bundle(Storage(str(folder)), name, make())
    tasks = {name: {**OWN_TASKS[name]} for name in ("same", "tones")}
    tasks |= {name: {"dev": f"{sample_uri()}/{file}-dev.csv"} for name, file in (("sst", "ids-sst"), ("sts", "sts"))}
    (folder / "map.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    for weights in ("uniform", "fitted"):
        words = ("--output", folder / weights, "--weights", weights, "--data", folder / "map.yaml")
        said = command("ensemble", *(folder / name for name in MEMBERS), *words)
        assert said["ensemble"] == str(folder / weights)
    for name in MEMBERS:  # the ensembles have copies
        (folder / name).rename(folder / f"{name}-moved")
    return folder


def silently(doing: str, total: int) -> Done:
    return silent


def command(*words: Any) -> Any:
    """What --json prints."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def probabilities(model: Any, task: str) -> np.ndarray:
    second = [OTHERS] if task in ("same", "sts") else []
    return model.predict(task, TEXTS, *second) if task == "sts" else model.probabilities(task, TEXTS, *second)


@pytest.mark.parametrize("task", ["sst", "same", "tones", "sts"])
@pytest.mark.parametrize("weights", ["uniform", "fitted"])
def test_it_answers_with_the_mean_of_its_members(folder: Path, weights: str, task: str) -> None:
    ensemble, made = load_bundle(str(folder / weights)), read_ensemble(Storage(str(folder / weights)))
    each = [load_bundle(str(folder / f"{name}-moved")) for name in MEMBERS]
    shares = made.shares(task)
    assert sum(shares) == pytest.approx(1) and (weights == "fitted" or max(shares) == 1 / (1 + (task != "sts")))
    expected = sum(
        share * probabilities(model, task) for share, model in zip(shares, each, strict=True) if task in model.tasks
    )
    np.testing.assert_allclose(probabilities(ensemble, task), expected, rtol=0, atol=1e-9)
    answers = [probabilities(model, task) for model in each if task in model.tasks]
    assert len(answers) == 1 or np.ptp(answers, axis=0).max() > 1e-3


def test_a_copy_elsewhere_is_the_same_ensemble(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "uniform", tmp_path / "copy")
    one, other = (load_bundle(str(at)) for at in (folder / "uniform", tmp_path / "copy"))
    np.testing.assert_array_equal(one.sentiment(TEXTS).probabilities, other.sentiment(TEXTS).probabilities)
    assert one.tasks == other.tasks == ("sst", "same", "tones", "sts")


def test_evaluate_measures_the_mixture(folder: Path, tmp_path: Path) -> None:
    """Against members' own outputs for the file, mixed by hand."""
    found = command("evaluate", folder / "uniform", "--data", folder / "map.yaml")
    place, made = place_of(str(folder / "map.yaml")), read_ensemble(Storage(str(folder / "uniform")))
    outputs = file_outputs(made, place, ["dev"], ["dev"], Storage(str(tmp_path)), silently)
    sst, same = outputs[0], outputs[1]
    mean = sum(some.double().softmax(dim=-1) for some in sst.outputs) / 2
    values = {row["metric"]: row["value"] for row in found["tasks"]}
    assert values["sst/accuracy"] == pytest.approx(float((mean.argmax(dim=-1) == sst.table.labels).double().mean()))
    yes = sum(some.double().sigmoid() for some in same.outputs) / 2 > 0.5
    assert values["same/accuracy"] == pytest.approx(float((yes == same.table.labels.bool()).double().mean()))
    assert all(row["interval"] for row in found["tasks"]) and values.keys() == {
        "sst/accuracy", "same/accuracy", "tones/f1_micro", "sts/pearson",
    }  # fmt: skip
    told = json.loads((folder / "uniform" / "ensemble.json").read_text())["dev"]["metrics"]
    assert {row["score"]["metric"]: row["score"]["value"] for row in told.values()} == values


@pytest.mark.slow
def test_what_is_reported_of_fitted_weights_is_cross_fitted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, made = place_of(str(folder / "map.yaml")), read_ensemble(Storage(str(folder / "fitted")))
    equal = read_ensemble(Storage(str(folder / "uniform")))
    for one in file_outputs(equal, place, ["dev"], ["dev"], Storage(str(tmp_path)), silently):
        row = made.dev["metrics"][one.spec.metric_key]
        crossed = predicted_of(cross_fitted(one.outputs, one.table.labels.double(), one.spec.label), one.spec.label)
        expected = score(one.spec.metric, crossed, one.table.labels.double()).value
        if len(one.outputs) == 1:
            expected = row["uniform"]
        assert row["score"]["value"] == expected
        assert row["uniform"] == equal.dev["metrics"][one.spec.metric_key]["score"]["value"]
    with caplog.at_level(logging.WARNING):
        command("evaluate", folder / "fitted", "--data", folder / "map.yaml")
    assert len([line for line in caplog.messages if "fitted on these rows" in line]) == 3  # sts has one member alone
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        command("evaluate", folder / "uniform", folder / "fitted", "--data", folder / "map.yaml")
    assert len([line for line in caplog.messages if "fitted on these rows" in line]) == 3


def test_members_are_in_memory_one_after_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []
    monkeypatch.setattr(ensembles, "read_bundle", lambda place: read.append(place.uri[-1]) or read_bundle(place))
    command("predict", folder / "uniform", "--data", folder / "map.yaml", "--output", tmp_path / "out")
    assert read == ["0", "1"]
    assert (tmp_path / "out" / "predictions" / "sst-dev-output.csv").is_file()


def test_a_table_of_texts_is_predicted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("id,sentence\n" + "".join(f'{at},"{text}"\n' for at, text in enumerate(TEXTS)))
    words = ("predict", folder / "fitted", "--input", tmp_path / "texts.csv")
    words += ("--task", "sst", "--output", tmp_path / "out")
    made = command(*words)
    part = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    expected = load_bundle(str(folder / "fitted")).sentiment(TEXTS).probabilities
    np.testing.assert_allclose(np.stack(part["probabilities"].to_numpy()), expected, atol=1e-6)
    with pytest.raises(UserError, match="holds parts of other work"):
        command(*(str(word).replace("fitted", "uniform") for word in words))
    assert made["rows"] == 3


def test_its_report_says_members_weights_and_scores(folder: Path) -> None:
    pages = [Path(place).read_text() for place in write_report(str(folder / "fitted"))]
    for page in pages:
        for said in ("/wide", "/narrow", "fitted, on other rows", "all alike", "tones/f1_micro", "interaction"):
            assert said in page
    assert "fitted to dev" in pages[0] and "uniform" not in pages[0]


def test_the_report_of_fitted_weights_that_were_not_measured_since_says_so(folder: Path, tmp_path: Path) -> None:
    """As `minibert calibrate` leaves an ensemble: what dev said of other members is no longer true."""
    shutil.copytree(folder / "fitted", tmp_path / "fit")
    place = Storage(str(tmp_path / "fit"))
    facts = read_document(place, ENSEMBLE)
    write_document(place, ENSEMBLE, {**facts, "dev": {}})
    page = Path(write_report(place.uri)[0]).read_text()
    assert "fitted to dev" in page and "Not measured" in page and "all alike" not in page


REFUSED = [
    ("embed", "ENSEMBLE", "texts.csv", "out"),
    ("export", "ENSEMBLE", "--format", "transformers", "--output", "out"),
    ("import", "ENSEMBLE", "--output", "out"),
    ("average", "ENSEMBLE", "BUNDLE", "--output", "out"),
    ("ensemble", "ENSEMBLE", "BUNDLE", "--output", "out"),
    ("recruit", "complete", "ENSEMBLE", "text"),
    ("train", "demo", "--storage", "runs", "--set", "encoder=ENSEMBLE"),
    ("train", "demo", "--storage", "runs", "--set", "stages.para.from=ENSEMBLE"),
]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words[:2]))
def test_what_takes_one_model_refuses_it_in_a_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("text\nwords\n")
    put = {"ENSEMBLE": str(folder / "uniform"), "BUNDLE": str(folder / "wide-moved")}
    for key, value in put.items():
        words = tuple(word.replace(key, value) for word in words)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError), done.output
    assert "an ensemble, of which evaluate, predict, report and load_bundle know" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_it_has_no_embeddings(folder: Path) -> None:
    with pytest.raises(UserError, match="its members have encoders of their own"):
        load_bundle(str(folder / "uniform")).embed(TEXTS)
    with pytest.raises(UserError, match="ensemble of 2: no trained head for task quora"):
        load_bundle(str(folder / "uniform")).paraphrase(TEXTS, OTHERS)


def made_of(tmp_path: Path, *members: Bundle, options: tuple[str, ...] = ()) -> str:
    """The error of an ensemble of those bundles."""
    for at, one in enumerate(members):
        save_bundle(Storage(str(tmp_path)), f"b{at}", one)
    named = [str(tmp_path / f"b{at}") for at in range(len(members))]
    done = CliRunner().invoke(app, ["ensemble", *named, "--output", str(tmp_path / "out"), *options])
    assert isinstance(done.exception, UserError), done.output
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    return str(done.exception)


def toned(seed: int, **label: Any) -> Bundle:
    """A bundle of a task `tone` with that label."""
    specs = known({"tone": {"columns": ["sentence"], "label": {"column": "sentiment", **label}}}, "test")
    model = MultitaskModel(tiny().config, "mean", {"tone": "linear"}, seed=seed, specs=specs)
    return bundle_of(model, tiny().tokenizer_json, {"trained": ["tone"]})


@pytest.mark.parametrize(
    ("label", "what"),
    [
        ({"words": list("edcba")}, "words ('e', 'd', 'c', 'b', 'a')"),
        ({"kind": "multilabel", "words": list("abcde")}, "kind multilabel"),
        ({"kind": "score", "low": 0, "high": 4}, "kind score"),
        ({"words": list("abc")}, "words ('a', 'b', 'c')"),
    ],
)
def test_members_that_mean_other_things_by_a_task_are_refused(tmp_path: Path, label: dict[str, Any], what: str) -> None:
    said = made_of(tmp_path, toned(1, words=list("abcde")), toned(2, **label))
    assert f"ensemble: task tone: '{tmp_path}/b1' has {what}, '{tmp_path}/b0' " in said


@pytest.mark.slow
def test_other_mistakes_are_a_line(tmp_path: Path) -> None:
    heads = {"sst": "mlp"}
    assert "no trained head" in made_of(tmp_path, member(1, heads), replace(member(2, heads), about={"trained": []}))
    assert "the same as" in made_of(tmp_path, member(1, heads), member(1, heads))
    assert "name two bundles or more" in made_of(tmp_path, member(1, heads))
    both = member(1, heads), member(2, heads)
    assert "one of uniform, fitted; did you mean fitted?" in made_of(tmp_path, *both, options=("--weights", "fited"))
    assert "give --data" in made_of(tmp_path, *both, options=("--weights", "fitted"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ids-sst-dev.csv").write_text("id\tsentence\tsentiment\n1\tgood\t3\n2\tbad\t1\n")
    options = ("--weights", "fitted", "--data", str(tmp_path / "data"))
    assert "has 2 rows; 5 folds need 10 or more" in made_of(tmp_path, *both, options=options)
    (tmp_path / "data" / "ids-sst-dev.csv").unlink()
    assert "has no dev file of sst" in made_of(tmp_path, *both, options=options)


def test_what_has_changed_since_is_refused(folder: Path, tmp_path: Path) -> None:
    def opened(name: str) -> Path:
        return Path(shutil.copytree(folder / "uniform", tmp_path / name))

    swapped = opened("swapped")
    for old, new in (("member-0", "x"), ("member-1", "member-0"), ("x", "member-1")):
        (swapped / old).rename(swapped / new)
    with pytest.raises(Damaged, match="not the member that its ensemble was made of"):
        load_bundle(str(swapped))
    torn = opened("torn") / "ensemble.json"
    torn.write_text(torn.read_text().replace("0.5", "0.4", 1))
    with pytest.raises(Damaged, match="its content is not what was written there"):
        load_bundle(str(torn.parent))
    gone = opened("gone")
    shutil.rmtree(gone / "member-1")
    with pytest.raises(UserError, match="no bundle there"):
        load_bundle(str(gone))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": {"sst": [0.5, 0.4]}}, "valid: 2 numbers, 1 in sum"),
        ({"weights": {"sst": [1.0]}}, "valid: 2 numbers, 1 in sum"),
        ({"weights": {"sst": [-1.0, 2.0]}}, "weights.sst.0"),
        ({"weights": {"nothing": [0.5, 0.5]}}, "which it does not define"),
        ({"members": []}, "members: "),
        ({"schema": 2}, "schema 2; this version reads 1"),
        ({"about": {"overall": 3}}, "about.overall"),
    ],
)
def test_an_ensemble_from_elsewhere_may_say_anything(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    facts = json.loads((folder / "uniform" / "ensemble.json").read_text())
    del facts["seal"]
    (tmp_path / "ensemble.json").write_text(json.dumps({"schema": 1, **facts, **change}))
    with pytest.raises(UserError) as error:
        load_bundle(str(tmp_path))
    assert said in str(error.value)


def test_a_cosine_of_an_encoder_that_learned_another_task_has_no_part_where_others_learned_it(tmp_path: Path) -> None:
    heads = {"sst": "mlp", "sts": "cosine"}
    trained = {"both": ["sst", "sts"], "mood": ["sst"], "alike": ["sts"]}
    for seed, (name, tasks) in enumerate(trained.items()):
        save_bundle(Storage(str(tmp_path)), name, member(seed, heads, trained=tasks))
    command("ensemble", *(tmp_path / name for name in trained), "--output", tmp_path / "all")
    made = read_ensemble(Storage(str(tmp_path / "all")))
    assert {task: made.shares(task) for task in made.tasks} == {"sst": (0.5, 0.5, 0.0), "sts": (0.5, 0.0, 0.5)}

    save_bundle(Storage(str(tmp_path)), "none", member(7, {"sts": "cosine"}, trained=[]))
    with pytest.raises(
        UserError, match=f"^bundle '{tmp_path}/none': trained on no task that it answers, as others are"
    ):
        command("ensemble", tmp_path / "both", tmp_path / "none", "--output", tmp_path / "x")
    save_bundle(Storage(str(tmp_path)), "nor", member(8, {"sts": "cosine"}, trained=[]))
    command("ensemble", tmp_path / "none", tmp_path / "nor", "--output", tmp_path / "untrained")
    assert read_ensemble(Storage(str(tmp_path / "untrained"))).shares("sts") == (0.5, 0.5)
