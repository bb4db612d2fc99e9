"""A stage's end and its start, killed around them: what it says of itself is what an undisturbed one says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.progress import Progress
from multitask.experiment.stage_job import OUTCOME, StageJob, read_outcome
from multitask.storage.storage import Storage
from tests.helpers import run, small_job

TIMED = {"seconds", "training_seconds", "examples_per_second", "seal"}
STAGE = {"tasks": ["quora", "sst"], "max_examples": 32, "log": {"worst": 3}}


def ended(job: StageJob) -> dict[str, Any]:
    """What the outcome says, but for its times."""
    outcome = read_outcome(job.folder)
    assert outcome is not None
    for record in outcome["records"]:
        del record["seconds"]
    return {name: value for name, value in outcome.items() if name not in TIMED}


@pytest.mark.parametrize("keep", ["last", {"best": "quora/accuracy"}], ids=["last", "best"])
def test_the_closer_look_is_of_the_kept_weights_and_the_same_after_a_kill(tmp_path: Path, keep: Any) -> None:
    """The kill comes behind the last measurement, whose predictions are gone then."""
    job = small_job(tmp_path, **STAGE, keep=keep, epochs=3, lr=3e-2)
    assert run(job)
    undisturbed = ended(job)
    assert undisturbed["kept_epoch"] == (3 if keep == "last" else 1), "the best one is not the last"
    for task in ("quora", "sst"):
        look = undisturbed["dev"][task]
        confusion = look["confusion"]
        right, rows = sum(confusion[at][at] for at in range(len(confusion))), sum(map(sum, confusion))
        assert right / rows == undisturbed["metrics"][f"{task}/accuracy"] and len(look["worst"]) == 3
    assert sorted(undisturbed["dev"]) == ["quora", "sst", "sts"]
    job.folder.remove(OUTCOME)
    assert run(job)
    assert ended(job) == undisturbed


def test_a_start_that_is_measured_and_not_told_is_measured_again(tmp_path: Path) -> None:
    """Failing where who goes on relies on the measurement of before, as the plan of a sweep does."""
    whole, killed = (
        replace(small_job(tmp_path / name, **STAGE, epochs=1), measure_start=True) for name in ("whole", "killed")
    )
    assert run(whole)

    class Killed(BaseException):
        pass

    def die(progress: Progress) -> bool:
        if progress.doing == "step":
            raise Killed
        return False

    with pytest.raises(Killed):
        run(killed, die)
    events = Storage(killed.events.uri)
    for name in events.list():
        events.remove(name)
    assert run(replace(killed, measure_start=False))
    assert ended(killed)["start"] == ended(whole)["start"] is not None
    assert ended(killed)["records"] == ended(whole)["records"]
