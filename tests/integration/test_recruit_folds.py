"""From a file of postings to bundles and what they are worth, with the tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multitask.bundle.bundle import read_bundle
from multitask.experiment.finding import find_bundle, open_bundle
from multitask.recipe.loading import load_recipe
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import run_training
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.recruit.folds import FoldsRequest, run_folds
from ray_jobs.recruit.measure import measured, write_card
from ray_jobs.recruit.training_files import prepare_files
from ray_jobs.screen import Screen
from tests.unit.test_recruit_postings import corpus

pytestmark = pytest.mark.slow
SMALL = ["encoder=tiny", "max_length=32", "defaults.epochs=1", "defaults.batch_size=8"]


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("postings") / "jobs.jsonl"
    rows = [
        {"id": p.id, "Title": p.title, "JobDescription": p.description, "JobRequirment": p.requirements,
         "RequiredQual": p.qualifications}
        for p in corpus().postings
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_posting_is_held_out_once_and_finished_folds_are_not_trained_again(
    postings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = FoldsRequest("recruiter/search", postings, "search", 2, str(tmp_path), overrides=SMALL)
    assert run_folds(request, Screen()) == 0
    found = json.loads((tmp_path / "search-folds" / "search.json").read_text())
    asked = {row["query"]: row["ndcg@10"]["queries"] for row in found["systems"]}
    assert asked == {"title": 28, "qualifications": 28}
    capsys.readouterr()
    assert run_folds(request, Screen()) == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 2
    assert json.loads((tmp_path / "search-folds" / "search.json").read_text()) == found


def test_each_leaf_is_measured_by_what_it_was_trained_for_and_has_a_card(postings: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    prepare_files(postings, data, 0.3, 11711, Screen())
    storage, recipe = Storage(str(tmp_path / "runs")), load_recipe("recruiter/all", SMALL)
    assert run_training(TrainingRequest(recipe, data, storage, "all", Workers()), Screen())
    uris = {stage: find_bundle(f"{storage.uri}/all/{stage}").uri for stage in ("search", "suitability", "completion")}
    names = {stage: {row["metric"] for row in measured(open_bundle(uri), data)} for stage, uri in uris.items()}
    assert "ndcg@10, title: hybrid, trained" in names["search"]
    assert "pearson (weak labels)" in names["suitability"]
    assert "exact match: completion" in names["completion"]
    trained = {stage: read_bundle(Storage(uri)).about["trained"] for stage, uri in uris.items()}
    assert trained == {"search": [], "suitability": ["suitability"], "completion": []}
    write_card(uris["suitability"], data, str(tmp_path / "CARD.md"), None, Screen())
    text = (tmp_path / "CARD.md").read_text()
    assert text.startswith("# all/suitability") and "weak labels made from postings" in text
