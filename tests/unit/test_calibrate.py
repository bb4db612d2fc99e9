"""Calibrating: what it finds on made outputs, that a head is moved by it, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from multitask import load_bundle
from multitask.bundle.bundle import Bundle, bundle_of, save_bundle
from multitask.bundle.fitting import with_fitting
from multitask.bundle.last_layer import moved
from multitask.data.sample import sample_uri
from multitask.errors import UserError
from multitask.inference.predict import Predictor
from multitask.measure import functions
from multitask.measure.calibrate import DECISIONS, Calibration, calibrated, cross_calibrated, surprise, with_best_cuts
from multitask.measure.ensembles import mixed
from multitask.model.multitask import MultitaskModel
from multitask.storage.storage import Storage
from multitask.tasks.own import known
from multitask.tasks.table import TASKS
from ray_jobs.cli import app
from ray_jobs.stopping import StopRequest
from tests.helpers import OWN_TASKS, tiny, tree_driver

SST, QUORA = TASKS["sst"].label, TASKS["quora"].label
TONES = known({"tones": OWN_TASKS["tones"]["define"]}, "test")["tones"].label


def drawn(kind: str, count: int) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn by the probabilities that they are."""
    width = {"classes": 5, "binary": 1, "multilabel": TONES.outputs}[kind]
    torch.manual_seed(5)
    logits = torch.randn(count, width).double() * 2
    if kind == "classes":
        return logits, torch.distributions.Categorical(logits=logits).sample().double()
    labels = torch.bernoulli(logits.sigmoid())
    return (logits, labels) if kind == "multilabel" else (logits[:, 0], labels[:, 0])


LABELS = {"classes": SST, "binary": QUORA, "multilabel": TONES}
ALONE = (1.0,)


@pytest.mark.parametrize("kind", LABELS)
def test_what_was_done_to_sound_logits_is_undone(kind: str) -> None:
    label = LABELS[kind]
    logits, labels = drawn(kind, 20000)
    shift = torch.linspace(-1, 1, label.outputs).double().reshape(label.shape)
    found = calibrated([(logits - shift) * 3], ALONE, labels, label, "dev")
    assert found.scale == pytest.approx(1 / 3, rel=0.05)
    apart = found.shift - shift
    apart = apart - apart.mean() if kind == "classes" else apart  # only differences between classes count
    assert apart.abs().max() < 0.1


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("weights", [ALONE, (0.25, 0.75)])
def test_no_step_from_it_makes_the_labels_likelier(kind: str, weights: tuple[float, ...]) -> None:
    """With the prior on how far the mean of each output moves."""
    label = LABELS[kind]
    logits, labels = drawn(kind, 200)
    models = [logits * 2 + 1, logits * 3 + torch.randn_like(logits)][: len(weights)]
    found = calibrated(models, weights, labels, label, "dev")
    mean = torch.tensordot(torch.tensor(weights).double(), torch.stack(models).mean(dim=1), dims=1)

    def unlikely(some: Calibration) -> float:
        apart = some.of(mean) - mean
        mixture = mixed([some.of(model) for model in models], weights, label)
        return surprise(mixture, labels, label) + float(apart.square().sum()) / 400

    for change in (1e-3, -1e-3):
        first = torch.zeros(label.outputs).double()
        first[0] = change
        others = [
            replace(found, scale=found.scale + change),
            replace(found, shift=found.shift + first.reshape(label.shape)),
        ]
        assert all(unlikely(found) < unlikely(other) < unlikely(found) + 1e-4 for other in others)


@pytest.mark.parametrize("kind", LABELS)
def test_models_that_say_the_same_are_calibrated_as_one(kind: str) -> None:
    logits, labels = drawn(kind, 200)
    one, other = (calibrated([logits] * len(some), some, labels, LABELS[kind], "dev") for some in (ALONE, (0.3, 0.7)))
    assert other.scale == pytest.approx(one.scale, abs=1e-6)
    torch.testing.assert_close(other.shift, one.shift, atol=1e-6, rtol=0)


def test_other_shares_of_the_classes_than_in_training_are_corrected_for() -> None:
    """Yes and no are two normal distributions that training saw alike often; of these rows one in ten is a yes."""
    torch.manual_seed(6)
    labels = torch.bernoulli(torch.full((5000,), 0.1)).double()
    values = torch.randn(5000).double() + labels
    logits = values - 0.5  # the log odds where both are as frequent
    found = calibrated([logits], ALONE, labels, QUORA, "dev")
    assert found.scale == pytest.approx(1, abs=0.15) and found.shift.item() == pytest.approx(np.log(1 / 9), abs=0.2)
    right = [
        ((some > 0) == labels.bool()).double().mean()
        for some in (logits, cross_calibrated([logits], ALONE, labels, QUORA, "dev"))
    ]
    assert right[1] > right[0] + 0.1


def test_a_row_is_calibrated_by_others_alone() -> None:
    """A row's own label, changed, leaves what is said of it as it was."""
    logits, labels = drawn("binary", 50)
    before = cross_calibrated([logits], ALONE, labels, QUORA, "dev")
    labels[7] = 1 - labels[7]
    after = cross_calibrated([logits], ALONE, labels, QUORA, "dev")
    assert after[7] == before[7] and not torch.equal(after, before)


def test_a_class_that_no_row_has_stays_possible() -> None:
    logits, labels = drawn("classes", 1000)
    seen = labels < 4
    found = calibrated([logits[seen]], ALONE, labels[seen], SST, "dev")
    assert found.shift.isfinite().all() and found.shift.argmin() == 4


def test_outputs_that_are_never_wrong_get_a_scale_all_the_same() -> None:
    """Without a prior the greater the likelier. What is found is a minimum, not where a search was stopped."""
    labels = torch.tensor([0.0, 1.0] * 50).double()
    logits = (labels - 0.5) * torch.linspace(2, 6, 100).double()
    scales = [calibrated([logits * factor], ALONE, labels, QUORA, "dev").scale * factor for factor in (1.0, 1.001)]
    assert 2 < scales[0] < 30 and scales[1] == pytest.approx(scales[0], rel=0.01)


def test_outputs_that_say_nothing_are_refused() -> None:
    logits, labels = drawn("binary", 400)
    with pytest.raises(
        UserError, match=r"dev: the model's outputs for 400 rows say nothing of their labels: the best scale is -"
    ):
        calibrated([-logits], ALONE, labels, QUORA, "dev")


HEADS = {"sst": "mlp", "quora": "interaction", "sts": "cosine", "tones": "linear"}


def made(heads: dict[str, str]) -> Bundle:
    model = MultitaskModel(
        tiny().config, "mean", heads, seed=3, specs=known({"tones": OWN_TASKS["tones"]["define"]}, "test")
    )
    return bundle_of(model, tiny().tokenizer_json, {"trained": list(heads)})


@pytest.mark.parametrize("task", ["sst", "quora", "tones"])
def test_a_head_is_moved_by_its_last_layer(task: str) -> None:
    bundle = made(HEADS)
    shift = torch.linspace(-1, 2, bundle.specs[task].label.outputs).double()
    after = moved(bundle, task, 0.5, shift)
    answers = [answers_of(some, task) for some in (bundle, after)]
    torch.testing.assert_close(answers[1], 0.5 * answers[0] + shift.reshape(answers[0].shape[1:]).float())
    others = [other for other in HEADS if other != task]
    assert all(
        torch.equal(answers_of(moved(bundle, task, 0.5, shift), other), answers_of(bundle, other)) for other in others
    )


def answers_of(bundle: Bundle, task: str) -> Tensor:
    texts = [["A warm film.", "No."], *([["It is warm.", "Yes."]] * (bundle.specs[task].sentences - 1))]
    return Predictor(bundle).outputs(task, *texts)


def command(*words: object) -> str:
    """What it prints."""
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is three times as sure of sst as it should be and says yes to quora too often, one that has sst the
    wrong way round, and dev files, whose labels were drawn by what the sound model says."""
    folder = tmp_path_factory.mktemp("calibrate")
    sound = made({task: HEADS[task] for task in ("sst", "quora", "sts")})
    words = [word for word in json.loads(sound.tokenizer_json)["model"]["vocab"] if word.isalpha()]
    texts = [" ".join(some) for some in np.random.default_rng(5).choice(words, (400, 6))]
    asked = {"sst": [texts], "quora": [texts, texts[::-1]]}
    for task, sides in asked.items():  # an untrained head hardly tells texts apart
        sound = moved(sound, task, 2 / Predictor(sound).outputs(task, *sides).std(dim=0).mean().item())
    logits = {task: Predictor(sound).outputs(task, *sides).double() for task, sides in asked.items()}
    for task, some in logits.items():
        sound = moved(sound, task, 1.0, -some.mean(dim=0))
        some -= some.mean(dim=0)
    torch.manual_seed(4)
    stars = torch.distributions.Categorical(logits=logits["sst"]).sample().tolist()
    yes = torch.bernoulli(logits["quora"].sigmoid()).tolist()
    rows = zip(texts, texts[::-1], stars, yes, strict=True)
    lines = [(f"{n}\t{one}\t{star}", f"{n}\t{one}\t{two}\t{same}") for n, (one, two, star, same) in enumerate(rows)]
    heads = ("id\tsentence\tsentiment", "id\tsentence1\tsentence2\tis_duplicate")
    for name, column in (("ids-sst-dev.csv", 0), ("quora-dev.csv", 1)):
        (folder / name).write_text("\n".join([heads[column], *(line[column] for line in lines)]) + "\n")
    for name, scale, shift in (("bundle", 3.0, 1.0), ("turned", -1.0, 0.0)):
        save_bundle(Storage(str(folder)), name, moved(moved(sound, "sst", scale), "quora", 1.0, shift))
    return folder


def test_the_command_writes_a_bundle_that_says_what_it_was_fitted_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = command("calibrate", folder / "bundle", "--output", tmp_path / "fit", "--data", folder, "--json")
    told = json.loads(said[said.index("{") :])["tasks"]
    assert [row["task"] for row in told] == ["sst", "quora"]
    assert told[0]["scale"] == pytest.approx(1 / 3, rel=0.3) and told[1]["shift"] == pytest.approx(-1, abs=0.4)
    for row in told:
        assert row["cross_entropy"]["value"] < row["cross_entropy"]["before"]
        assert [one["metric"] for one in row["metrics"]] == [f"{row['task']}/accuracy"]
    one, other = (load_bundle(str(at)) for at in (folder / "bundle", tmp_path / "fit"))
    texts = ["A warm, funny film.", "Two hours of nothing."]
    expected = told[0]["scale"] * np.log(one.probabilities("sst", texts)) + np.array(told[0]["shift"])
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.log(other.probabilities("sst", texts)), expected, atol=1e-5)
    command("evaluate", tmp_path / "fit", "--data", folder)
    assert caplog.text.count("was fitted on these rows") == 2
    command("ensemble", tmp_path / "fit", folder / "bundle", "--output", tmp_path / "both", "--data", folder)
    command("evaluate", tmp_path / "both", "--data", folder)
    command("calibrate", tmp_path / "fit", "--output", tmp_path / "twice", "--data", folder)
    assert caplog.text.count("was fitted on these rows") == 8, (
        "of an ensemble's members, and of what is calibrated twice"
    )


def test_decisions_are_best_by_the_metric_that_is_asked_for() -> None:
    """Rare positives, of which half a probability finds few: every other cut is tried by hand."""
    torch.manual_seed(3)
    logits = torch.randn(3000).double() - 2
    labels = torch.bernoulli(logits.sigmoid())
    fit = Calibration(1.0, torch.tensor(0.5).double())
    for metric, function in DECISIONS["binary"].items():
        moved_on = with_best_cuts(fit, logits, labels, QUORA, metric)
        best = function((moved_on.of(logits) > 0).double().numpy(), labels.numpy())
        cuts = np.linspace(-5, 1, 601)
        tried = [float(function((logits.numpy() > cut).astype(float), labels.numpy())) for cut in cuts]
        assert best > max(tried) - 0.01 and moved_on.scale == 1
    usual = functions.f1((logits > 0).double().numpy(), labels.numpy())
    found = with_best_cuts(fit, logits, labels, QUORA, "f1").of(logits) > 0
    assert functions.f1(found.double().numpy(), labels.numpy()) > usual + 0.05


def test_each_class_of_several_is_decided_by_its_own_cut() -> None:
    logits, labels = drawn("multilabel", 2000)
    label = replace(TONES, thresholds=(0.2, *[0.5] * (TONES.outputs - 1)))
    found = with_best_cuts(Calibration(1.0, torch.zeros(TONES.outputs).double()), logits, labels, label, "f1_macro")
    cut = torch.tensor(label.cuts)
    for at in range(TONES.outputs):
        f1 = [
            functions.f1((one[:, at] > cut[at]).double().numpy(), labels[:, at].numpy())
            for one in (logits, found.of(logits))
        ]
        assert f1[1] >= f1[0]


def test_the_command_decides_and_says_what_that_is_worth(folder: Path, tmp_path: Path) -> None:
    words = ("calibrate", folder / "bundle", "--data", folder, "--json", "--decide", "quora/f1")
    said = command(*words, "--output", tmp_path / "fit")
    (quora,) = [row for row in json.loads(said[said.index("{") :])["tasks"] if row["task"] == "quora"]
    f1 = {one["metric"]: one for one in quora["metrics"]}["quora/f1"]
    assert f1["value"] > 0.6 and f1["rows"] == 400
    shown = command("evaluate", tmp_path / "fit", "--data", folder, "--classes", "--json")
    fitted = json.loads(shown[shown.index("{") :])["classes"]["quora"]["classes"][1]["f1"]
    assert f1["value"] <= fitted + 0.02, "what is cross-fitted is no better than what was fitted"
    for wrong, line in (("quora/auc", "valid: quora/accuracy, quora/bal"), ("sst/f1", "--decide 'sst/f1': valid: ")):
        with pytest.raises(UserError, match=line):
            command("calibrate", folder / "bundle", "--data", folder, "--decide", wrong, "--output", tmp_path / "no")


def test_an_ensemble_is_calibrated_in_each_of_its_members(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = load_bundle(str(folder / "bundle")).bundle
    save_bundle(Storage(str(tmp_path)), "milder", moved(sound, "sst", 0.5))
    names = [folder / "bundle", tmp_path / "milder"]
    command("ensemble", *names, "--output", tmp_path / "both", "--data", folder)
    said = command("calibrate", tmp_path / "both", "--output", tmp_path / "fit", "--data", folder, "--json")
    told = json.loads(said[said.index("{") :])["tasks"]
    assert [row["cross_entropy"]["value"] < row["cross_entropy"]["before"] for row in told] == [True, True]
    texts = ["A warm, funny film.", "Two hours of nothing."]
    members = []
    for name in names:
        logits = told[0]["scale"] * np.log(load_bundle(str(name)).probabilities("sst", texts)) + told[0]["shift"]
        members.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    fit = load_bundle(str(tmp_path / "fit"))
    np.testing.assert_allclose(fit.probabilities("sst", texts), np.mean(members, axis=0), atol=1e-6)
    command("evaluate", tmp_path / "fit", "--data", folder)
    command("evaluate", tmp_path / "fit" / "member-1", "--data", folder)
    assert caplog.text.count("was fitted on these rows") == 4, "the ensemble, and what is taken out of it"


@pytest.mark.slow
def test_what_is_calibrated_knows_its_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its experiment, which the new bundle is no part of."""
    data = tmp_path / "mine"
    shutil.copytree(sample_uri(), data)
    stages = [{"name": "para", "tasks": ["quora"], "max_examples": 300, "epochs": 4}]
    results = tree_driver(tmp_path, stages, tasks=files_of(data)).run(StopRequest(""))
    bundle = tmp_path / "tree" / results["stages"][-1]["bundle"]
    command("calibrate", bundle, "--output", tmp_path / "fit")
    said = command("evaluate", tmp_path / "fit", "--json")
    assert {row["source"] for row in json.loads(said[said.index("{") :])["tasks"]} == {str(data / "quora-dev.csv")}
    assert "quora-dev.csv: " in caplog.text and "was fitted on these rows" in caplog.text


def files_of(folder: Path) -> dict[str, dict[str, str]]:
    return {"quora": {split: str(folder / f"quora-{split}.csv") for split in ("train", "dev")}}


def test_what_was_fitted_to_nothing_says_nothing() -> None:
    assert with_fitting({"overall": []}, {"sst": []}) == {"overall": []}
    once = with_fitting({"fitted_on": {"sst": "older"}}, {"sst": ["newer"], "quora": []})
    assert once == {"fitted_on": {"sst": ["older", "newer"]}} == with_fitting(once, {"sst": ["older"]})


def test_a_task_without_a_dev_file_is_named(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ids-sst-dev.csv").write_bytes((folder / "ids-sst-dev.csv").read_bytes())
    command("calibrate", folder / "bundle", "--output", tmp_path / "fit", "--data", tmp_path / "data")
    assert f"quora: left as it is: no dev file in {tmp_path / 'data'}" in caplog.text


def test_a_head_that_says_nothing_stays_as_it_is(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = command("calibrate", folder / "turned", "--output", tmp_path / "fit", "--data", folder)
    assert (
        "sst: left as it is: " in caplog.text
        and "the best scale is -" in caplog.text
        and "sst" not in said.split("dev of")[1]
    )
    one, other = (load_bundle(str(at)) for at in (folder / "turned", tmp_path / "fit"))
    assert np.array_equal(one.probabilities("sst", ["A film."]), other.probabilities("sst", ["A film."]))
    assert one.probabilities("quora", ["A?"], ["B?"]) != other.probabilities("quora", ["A?"], ["B?"])


def test_what_cannot_be_calibrated_is_a_line(tmp_path: Path) -> None:
    save_bundle(Storage(str(tmp_path)), "scores", made({"sts": "cosine"}))
    for output, said in (("out", "nothing to calibrate"), ("scores", "name a directory that is not there yet")):
        with pytest.raises(UserError, match=said):
            command("calibrate", tmp_path / "scores", "--output", tmp_path / output)
    assert not (tmp_path / "out").exists()
