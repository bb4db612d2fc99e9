"""What a driver tells a stage's workers."""

from __future__ import annotations

from pathlib import Path

from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.model.multitask import MultitaskModel
from multitask.storage.storage import Storage
from ray_jobs.driver.jobs import job_of
from tests.helpers import tiny, tree_driver


def test_a_head_that_only_saw_a_teachers_encodings_is_not_said_to_be_trained(tmp_path: Path) -> None:
    teachers = {"sst": {"bundle": "tiny", "embeddings": True, "weight": 1.0}}
    stages = [
        {"name": "alike", "tasks": ["sst", "quora"], "teachers": teachers},
        {"name": "sst", "tasks": ["sst"], "train": "last-linear-layer"},
    ]
    driver = tree_driver(tmp_path / "runs", stages)
    driver.claim()
    said = [job_of(driver.plan, node).about["trained"] for node in driver.plan.nodes]
    assert said == [["quora"], ["quora", "sst"]]


def test_a_head_of_another_name_is_not_said_to_be_trained(tmp_path: Path) -> None:
    brought = Storage(str(tmp_path / "brought"))
    model = MultitaskModel(tiny().config, "mean", {"sst": "linear", "quora": "mlp"})
    save_bundle(brought, "", bundle_of(model, tiny().tokenizer_json, {"trained": ["sst", "quora"]}))
    stages = [
        {"name": "para", "tasks": ["quora"]},  # the recipe's head for sst is another than the bundle's
        {"name": "sts", "tasks": ["sts"], "heads": {"quora": "interaction", "sts": "mlp"}},
        {"name": "mlm", "tasks": ["sst"], "objective": "mlm"},
        {"name": "sst", "tasks": ["sst"], "heads": {"sts": "linear"}},
    ]
    driver = tree_driver(tmp_path / "runs", stages, encoder=brought.uri)
    driver.claim()
    said = [job_of(driver.plan, node).about["trained"] for node in driver.plan.nodes]
    assert said == [["quora"], ["sts"], ["sts"], ["sst"]]
