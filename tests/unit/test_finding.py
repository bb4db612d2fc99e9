"""A bundle by its URI, as a stage of an experiment, and an encoder by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from multitask.bundle.bundle import save_bundle
from multitask.errors import UserError
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.finding import find_bundle, open_bundle
from multitask.experiment.stage_job import node_key
from multitask.storage.storage import Storage
from tests.helpers import tiny


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An experiment `first` with a trained stage `sst` and one that has not begun."""
    storage = Storage(str(tmp_path))
    experiment = Experiment(storage, "first")
    trained = experiment.claim("sst", {"lr": 1}, "encoder", fresh=False)
    trained.status = "finished"
    experiment.claim("sts", {"lr": 2}, "encoder", fresh=False)
    experiment.begin_attempt()
    save_bundle(storage, f"first/{trained.trainer}/bundle", tiny())
    return storage


def test_a_stage_stands_for_its_bundle(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Experiment(storage, "first").stages["sst"].trainer
    for uri in ("first/sst", "first/sst/", f"first/{trainer}/bundle"):
        assert find_bundle(f"{storage.uri}/{uri}").uri.rstrip("/") == f"{storage.uri}/first/{trainer}/bundle"
    monkeypatch.chdir(storage.uri)
    assert open_bundle("first/sst").about == tiny().about
    monkeypatch.chdir("first")
    assert open_bundle(trainer + "/bundle").about == tiny().about
    assert open_bundle("sst").about == tiny().about


def test_a_finished_stage_without_its_bundle_is_said(storage: Storage) -> None:
    trainer = Experiment(storage, "first").stages["sst"].trainer
    storage.remove(f"first/{trainer}")
    with pytest.raises(
        UserError, match=rf"experiment\.json says that stage 'sst' has finished, .* no bundle of {trainer};"
    ):
        find_bundle(f"{storage.uri}/first/sst")


def test_a_bundle_of_another_trainer_is_refused(storage: Storage) -> None:
    trainer = Experiment(storage, "first").stages["sst"].trainer
    foreign = replace(tiny(), about={**tiny().about, "trainer": "TorchTrainer_2"})
    save_bundle(storage, f"first/{trainer}/bundle", foreign)
    with pytest.raises(UserError, match=rf"bundle '.*{trainer}/bundle': another trainer's, TorchTrainer_2"):
        find_bundle(f"{storage.uri}/first/sst")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("first", r"an experiment; name one of its stages; it has .*first/sst \(finished\), .*first/sts \(pending\)"),
        ("first/sts", r"stage 'sts' has no bundle yet; it has"),
        ("first/other", r"no stage 'other'; it has"),
    ],
)
def test_an_experiment_says_which_stages_it_has(storage: Storage, uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_bundle(f"{storage.uri}/{uri}")


def test_an_encoder_by_name_and_nothing_at_all(tmp_path: Path) -> None:
    assert open_bundle("tiny").heads == {}
    with pytest.raises(UserError, match="no such directory; known"):
        open_bundle(str(tmp_path / "none"))


def test_a_directory_beside_one_is_a_bundle_without_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_bundle(Storage("."), "mine", tiny())
    assert open_bundle("mine").about == tiny().about


def test_of_several_seeds_it_says_whose_bundle_it_is_and_what_the_others_are_called(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = Experiment(storage, "seeds")
    content = {"stage": {"lr": 1}, "parent": "a"}
    for variant in range(3):
        recipe = {"recipe": {"seed": 11711 + variant}}
        trial = experiment.claim(node_key("sst@lr=1", variant), content | recipe, "encoder", False, variant)
        swept = {"trials": {"sst@lr=1": trial.fingerprint}, "by": "sst/accuracy"}
        stage = experiment.claim(node_key("sst", variant), swept, "encoder", False, variant, None)
        stage.trainer = trial.trainer if variant < 2 else ""  # the third is not trained yet
        last = experiment.claim(node_key("last", variant), {**content, **recipe, "parent": "b"}, "sst", False, variant)
        stage.status, last.status = ("finished" if variant < 2 else "pending"), "finished"
        for record in (stage, last):
            save_bundle(storage, f"seeds/{record.trainer}/bundle", tiny())
    experiment.begin_attempt()
    monkeypatch.chdir(storage.uri)
    for _ in range(2):
        find_bundle("seeds/sst")
    assert caplog.messages == ["seeds/sst is of seed 11711; others: seeds/sst#1 (seed 11712)"]
    caplog.clear()
    assert find_bundle("seeds/sst#1").uri.endswith(f"{experiment.stages['sst#1'].trainer}/bundle")
    find_bundle("first/sst")
    assert caplog.messages == [], "where one bundle alone has that name, nothing is to be said"
    find_bundle("seeds/last")
    assert caplog.messages == [
        "seeds/last is of seed 11711; others: seeds/last#1 (seed 11712), seeds/last#2 (seed 11713)"
    ]
