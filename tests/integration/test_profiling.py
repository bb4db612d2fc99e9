"""`profile: true`: what it leaves, and what it does not change."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from lightning_modules.profiling import FOLDER, RECORDED, SUMMARY
from tests.helpers import difference, newest, run, small_job


def test_a_profiled_stage_leaves_a_trace_of_ten_steps(tmp_path: Path) -> None:
    plain, profiled = small_job(tmp_path, "plain", epochs=4), small_job(tmp_path, "profiled", epochs=4, profile=True)
    assert run(plain) and run(profiled)
    assert difference(newest(plain).weights, newest(profiled).weights) == 0
    names = profiled.folder.list(FOLDER)
    assert "Optimizer.step" in profiled.folder.read_bytes(f"{FOLDER}/{SUMMARY}").decode()
    (trace,) = (name for name in names if name.endswith(".pt.trace.json.gz"))  # as TensorBoard's plugin wants it
    events = json.loads(gzip.decompress(profiled.folder.read_bytes(f"{FOLDER}/{trace}")))["traceEvents"]
    assert len({event["name"] for event in events if event["name"].startswith("ProfilerStep#")}) == RECORDED
    assert not plain.folder.exists(FOLDER)


def test_a_stage_of_few_steps_ends_as_ever(tmp_path: Path) -> None:
    job = small_job(tmp_path, epochs=1, profile=True)
    assert run(job)
    assert job.folder.exists("outcome.json")
