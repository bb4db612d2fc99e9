"""Suitability: probabilities as evaluate's, temperature and calibration on made data, the two commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitask.bundle.bundle import Bundle, bundle_of, read_bundle, save_bundle
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.measure.bootstrap import clustered_interval
from multitask.measure.evaluate import EVAL_TOKENS, EvalSet, predictions
from multitask.measure.metrics import Floats
from multitask.recruit.calibration import (
    auc,
    brier,
    cross_entropy,
    ece,
    fit_temperature,
    reliability,
)
from multitask.recruit.suitability import Suitability, TaskModel, cooled, qualified, sigmoid
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS
from ray_jobs.recruit.measure import measure_bundle
from ray_jobs.recruit.suitability import calibrate, run_suitability, suitability_metrics
from ray_jobs.screen import Screen
from tests.helpers import tiny

CPU = torch.device("cpu")
NOTE = "weak labels made from postings: its own 1"


@pytest.fixture(autouse=True)
def on_cpu_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.recruit.suitability.default_device", lambda: CPU)
    monkeypatch.setitem(EVAL_TOKENS, "cpu", 100)


def with_head(head: str = "mlp", **about: object) -> Bundle:
    """The tiny encoder, its weights made large so that outputs differ, with a suitability head."""
    large = replace(tiny(), tensors={name: 5 * value for name, value in tiny().tensors.items()})
    return bundle_of(large.model({"suitability": head}, seed=3), tiny().tokenizer_json, {"max_length": 24, **about})


def saved(folder: Path, bundle: Bundle) -> str:
    save_bundle(Storage(str(folder)), "bundle", bundle)
    return str(folder / "bundle")


def rows_file(folder: Path, count: int = 40, score: Callable[[int], float] = lambda at: (at % 3) / 2) -> list[dict]:
    rows = [
        {"id": f"{at // 3}/{at}", "job": f"a good film about {at}", "application": "the worst of all " * (at % 7 + 1),
         "score": score(at)}
        for at in range(count)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "suitability-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


# Calibration, on made data.


@given(st.floats(0.2, 5.0), st.integers(0, 100))
def test_the_temperature_that_logits_were_multiplied_with_is_found(factor: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, 300)
    # Soft labels that are the probabilities themselves: the best temperature is known exactly.
    assert fit_temperature(logits * factor, sigmoid(logits)) == pytest.approx(factor, rel=1e-4)


def test_the_temperature_of_drawn_labels_is_near_the_true_one() -> None:
    drawn = np.random.default_rng(1)
    logits = drawn.normal(0, 2, 20_000)
    labels = (drawn.random(20_000) < sigmoid(logits)).astype(float)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)


def test_cross_entropy_is_torchs() -> None:
    logits, labels = np.array([-800.0, -1.0, 0.0, 3.0]), np.array([0.0, 0.5, 1.0, 0.25])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(*(torch.tensor(x) for x in (logits / 2, labels)))
    assert cross_entropy(logits, labels, 2.0) == pytest.approx(float(expected))


@pytest.mark.parametrize("labels", [[0.0, 1.0], [1.0, 0.0]])  # told apart without fault; the wrong way round
def test_where_no_temperature_fits_it_is_said(labels: list[float]) -> None:
    with pytest.raises(UserError, match=r"no temperature from 0\.02 to 50 calibrates these 2 rows"):
        fit_temperature(np.array([-1.0, 1.0]), np.array(labels))


def test_reliability_ece_and_brier_by_hand() -> None:
    given = np.array([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
    labels = np.array([0.0, 1.0, 0.5, 0.5, 1.0, 1.0])
    bins = reliability(given, labels, bins=2)
    assert [(b.low, b.high, b.count) for b in bins] == [(0.0, 0.5, 3), (0.5, 1.0, 3)]
    assert bins[0].predicted == pytest.approx(0.4 / 3) and bins[0].labelled == pytest.approx(0.5)
    assert bins[1].predicted == pytest.approx(0.8) and bins[1].labelled == pytest.approx(2.5 / 3)
    assert ece(given, labels, bins=2) == pytest.approx((3 * (0.5 - 0.4 / 3) + 3 * (2.5 / 3 - 0.8)) / 6)
    assert brier(given, labels) == pytest.approx((0.81 + 0.04 + 0.01) / 6)
    assert reliability(np.array([0.7]), np.array([1.0]), bins=2)[0].predicted is None


def test_a_calibrated_model_has_no_error() -> None:
    drawn = np.random.default_rng(2)
    given = drawn.random(50_000)
    assert ece(given, given) == 0.0
    assert ece(given, (drawn.random(50_000) < given).astype(float)) < 0.01


def test_auc_by_hand_and_without_pairs() -> None:
    given = np.array([0.1, 0.4, 0.4, 0.8])
    assert auc(given, np.array([False, False, True, True])) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(given, np.ones(4, bool)))


def test_intervals_are_over_clusters_and_hold_the_truth() -> None:
    drawn = np.random.default_rng(3)
    values = np.repeat(drawn.normal(1, 1, 100), 5)  # rows of a posting repeat each other
    low, high = clustered_interval(lambda rows: values[rows].mean(), [at // 5 for at in range(500)]) or (0, 0)
    assert low < 1 < high and high - low == pytest.approx(2 * 1.96 / 10, rel=0.25)
    assert clustered_interval(lambda rows: float("nan"), [1, 2]) is None


# The model.


@pytest.mark.parametrize("head", ["mlp", "linear", "interaction"])
def test_probabilities_are_those_of_evaluate(tmp_path: Path, head: str) -> None:
    rows, bundle = rows_file(tmp_path), with_head(head)
    storage, spec = Storage(str(tmp_path / "runs")), TASKS["suitability"]
    uri = str(tmp_path / "suitability-dev.jsonl")
    path = cache_tokens(storage, uri, spec, bundle.tokenizer, labelled=True, max_length=24)
    expected = predictions(bundle.model(), EvalSet.of("suitability", load_tokens(storage, path), "cpu"), device=CPU)
    found = Suitability(bundle).probabilities([(row["job"], row["application"]) for row in rows])
    assert found.dtype == np.float64 and np.ptp(found) > 0.01
    np.testing.assert_allclose(found, expected.labels.numpy(), atol=1e-6)


def test_no_pairs_have_no_probabilities() -> None:
    assert Suitability(with_head()).probabilities([]).shape == (0,)


def test_a_bundle_without_the_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"no trained head for task suitability, it has none; .*recruiter/all"):
        Suitability(tiny())
    with pytest.raises(UserError, match="no trained head for task sst, it has those of suitability"):
        TaskModel(with_head(), "sst")


def test_qualified_from_the_threshold_on() -> None:
    assert qualified(np.array([0.49999, 0.5, 0.9])).tolist() == [False, True, True]


@pytest.mark.parametrize("head", ["mlp", "linear", "interaction"])
def test_a_cooled_bundle_has_its_logits_divided_and_nothing_else_changed(head: str) -> None:
    bundle, pairs = with_head(head), [("a good film", "bad"), ("the worst", "an actor"), ("music", "so long " * 20)]
    made = cooled(cooled(bundle, 2.0), 1.5)
    np.testing.assert_allclose(Suitability(made).logits(pairs), Suitability(bundle).logits(pairs) / 3, atol=1e-6)
    assert made.about == {**bundle.about, "temperature": 3.0} and "temperature" not in bundle.about
    changed = {name for name in bundle.tensors if not torch.equal(bundle.tensors[name], made.tensors[name])}
    assert len(changed) == 2 and all(name.startswith("heads.suitability.layers.") for name in changed)


# The commands.


def test_an_answer_is_yes_or_no_and_a_person_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = saved(tmp_path, with_head(notes={"suitability": NOTE}))
    (tmp_path / "cv.txt").write_text("a good film")
    run_suitability(uri, "some job", str(tmp_path / "cv.txt"), score=False, screen=Screen())
    said = capsys.readouterr().out
    assert said.splitlines()[0] in ("qualified", "not qualified")
    assert "A person decides" in said and f"trained on {NOTE}" in said and "probability" not in said
    run_suitability(uri, "some job", "a good film", score=False, screen=Screen(as_json=True))
    assert json.loads(capsys.readouterr().out).keys() == {"qualified", "labels"}
    run_suitability(uri, "some job", "a good film", score=True, screen=Screen(as_json=True))
    shown = json.loads(capsys.readouterr().out)
    expected = Suitability(read_bundle(Storage(uri))).probabilities([("some job", "a good film")])[0]
    assert shown["probability"] == pytest.approx(expected) and shown["qualified"] == (expected >= 0.5)
    run_suitability(uri, "some job", "a good film", score=True, screen=Screen())
    assert f"probability {expected:.3f}, not calibrated" in capsys.readouterr().out


def test_a_head_that_nothing_trained_judges_nobody() -> None:
    with pytest.raises(UserError, match="no trained head for task suitability, it has none"):
        Suitability(with_head(trained=["sts"]))


@pytest.mark.parametrize(("text", "said"), [(" \n", "no text"), ("absent.txt", "no such file")])
def test_what_is_no_text_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"application .*: {said}"):
        run_suitability(saved(tmp_path, with_head()), "a job", text, score=False, screen=Screen())


def calibratable(folder: Path) -> tuple[str, str]:
    """A bundle's URI and data on which it is overconfident by about a factor of 4."""
    bundle = with_head(notes={"suitability": NOTE})
    rows = rows_file(folder / "data", 120)
    pairs = [(row["job"], row["application"]) for row in rows]
    raw: Floats = Suitability(bundle).logits(pairs)
    true = sigmoid((raw - np.median(raw)) / raw.std())
    last = "heads.suitability.layers.2."
    tensors = {**bundle.tensors, f"{last}bias": bundle.tensors[f"{last}bias"] - float(np.median(raw))}
    hot = replace(bundle, tensors={n: t * 4 / raw.std() if n.startswith(last) else t for n, t in tensors.items()})
    rows_file(folder / "data", 120, lambda at: float(true[at]))
    return saved(folder, hot), str(folder / "data")


def test_calibrating_writes_a_cooled_bundle_and_a_diagram(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, data = calibratable(tmp_path)
    calibrate(uri, data, str(tmp_path / "cooled"), Screen())
    made = read_bundle(Storage(str(tmp_path / "cooled")))
    assert made.about["temperature"] == pytest.approx(4.0, rel=0.01)
    found = made.about["calibration"]
    assert found["after"]["ece"] < 0.01 < found["before"]["ece"] and found["labels"] == NOTE
    assert found["rows_fit"] + found["rows_measured"] == 120 and abs(found["rows_fit"] - 60) <= 3
    assert (tmp_path / "cooled" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "temperature 4.00" in said and "ece" in said and NOTE in said
    with pytest.raises(UserError, match=r"holds manifest\.json"):
        calibrate(uri, data, str(tmp_path / "cooled"), Screen())


def test_one_posting_cannot_be_halved(tmp_path: Path) -> None:
    rows_file(tmp_path / "data", 3)
    with pytest.raises(UserError, match="two at least"):
        calibrate(saved(tmp_path, with_head()), str(tmp_path / "data"), str(tmp_path / "cooled"), Screen())
    assert not (tmp_path / "cooled").exists()


def test_measuring_gives_values_with_intervals_and_names_weak_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_head(notes={"suitability": NOTE}, tasks=["suitability"])
    rows = rows_file(tmp_path / "data")
    found = suitability_metrics(bundle, str(tmp_path / "data"))
    given = Suitability(bundle).probabilities([(row["job"], row["application"]) for row in rows])
    labels = np.array([row["score"] for row in rows])
    assert found["rows"] == 40 and found["labels"] == NOTE
    assert found["metrics"]["pearson"]["value"] == pytest.approx(np.corrcoef(given, labels)[0, 1])
    assert found["metrics"]["accuracy"]["value"] == np.mean((given >= 0.5) == (labels >= 0.5))
    for row in found["metrics"].values():
        assert row["interval"][0] <= row["value"] <= row["interval"][1] or row["value"] == pytest.approx(0, abs=0.1)
    measure_bundle(saved(tmp_path, bundle), str(tmp_path / "data"), screen=Screen())
    assert "auc (weak labels)" in capsys.readouterr().out


def test_where_all_labels_are_on_one_side_there_is_no_auc(tmp_path: Path) -> None:
    rows_file(tmp_path / "data", 6, lambda at: 1.0)
    metrics = suitability_metrics(with_head(), str(tmp_path / "data"))["metrics"]
    assert metrics["auc"]["value"] is None and metrics["pearson"]["value"] is None and metrics["auc"]["why"]
    assert metrics["brier"]["value"] is not None
