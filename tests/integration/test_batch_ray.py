"""`minibert embed` and `predict` on two Ray workers, and what happens when they, or the user, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.storage.storage import Storage
from ray_jobs.batch.ray_data import RETRIES
from ray_jobs.batch.table_job import MANIFEST, TableRequest, embed_table, predict_table
from ray_jobs.options import Workers
from ray_jobs.runners.cluster import Cluster
from ray_jobs.screen import Screen
from tests.helpers import tiny

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("ray_jobs.batch.table_job.default_device", lambda: "cpu")


def table(folder: Path, rows: int) -> str:
    file = folder / "texts.jsonl"
    lines = [
        json.dumps({"id": f"row {at}", "text": f"a good film about {'music ' * (at % 9)}{at}"}) for at in range(rows)
    ]
    lines[7] = "no JSON"
    file.write_text("\n".join(lines))
    return str(file)


def command(source: str, output: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ray_jobs", "embed", "tiny", source, str(output), "--workers", "2", *words]


IMPATIENT = """
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray_jobs.cli.program import main
StreamingExecutor.shutdown = lambda *_, **__: None
main()
"""


def impatient(command: list[str]) -> list[str]:
    """The command, in a process where Ray Data's threads outlive its work: on a slow machine they outlive the 2 s that
    it waits for them."""
    python, _, _, *words = command
    return [python, "-c", IMPATIENT, *words]


def children(run: subprocess.Popen[str], title: str) -> Iterator[psutil.Process]:
    """Processes of the run whose title begins so."""
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                yield process
        except psutil.NoSuchProcess:
            continue


def wait_for_parts(run: subprocess.Popen[str], output: Path, count: int) -> None:
    while len(list(output.glob("part-*"))) < count:
        assert run.poll() is None, "it ended before"
        time.sleep(0.05)


def test_two_workers_write_what_one_process_does(tmp_path: Path) -> None:
    source = table(tmp_path, 5000)
    bundle = bundle_of(tiny().model({"sst": "mlp"}, seed=3), tiny().tokenizer_json, {})
    save_bundle(Storage(str(tmp_path)), "bundle", bundle)
    with Cluster(Workers(2, 2), Screen()):  # which both commands use
        for name, run, words in (("embed", embed_table, {}), ("predict", predict_table, {"columns": ("text",)})):
            for workers in (0, 2):
                output = str(tmp_path / f"{name}-{workers}")
                run(
                    TableRequest(str(tmp_path / "bundle"), source, output, rows=300, workers=workers, **words), Screen()
                )
    for name in ("embed", "predict"):
        one, two = (tmp_path / f"{name}-{workers}" for workers in (0, 2))
        assert sorted(os.listdir(one)) == sorted(os.listdir(two)) and len(os.listdir(one)) == 17 + 2
        assert pq.read_table(one).equals(pq.read_table(two))
        assert (one / MANIFEST).read_text() == (two / MANIFEST).read_text()
    assert json.loads((one / MANIFEST).read_text())["quarantined"]["first"] == ["texts.jsonl:8: not JSON: 'no JSON\\n'"]


def test_a_killed_worker_and_a_stopped_command_cost_nothing_but_time(tmp_path: Path) -> None:
    source, output = table(tmp_path, 30_000), tmp_path / "out"
    words = impatient(command(source, output, "--rows", "100"))
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_parts(run, output, 10)
    next(children(run, "ray::MapWorker")).kill()
    wait_for_parts(run, output, 60)
    begun = list(children(run, "ray::MapWorker"))
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert not psutil.wait_procs(begun, timeout=30)[1]  # they end after the command, and may write a part before
    assert run.returncode == 130 and "minibert: interrupted; the same command goes on where it was" in said, said
    parts = {file.name: file.stat().st_mtime_ns for file in output.glob("part-*")}
    assert 60 <= len(parts) < 300 and not (output / MANIFEST).exists()

    done = subprocess.run(command(source, output, "--rows", "100"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(parts)} parts are in {output} already; going on" in done.stdout
    assert all((output / name).stat().st_mtime_ns == made for name, made in parts.items())
    found = pq.read_table(output)["id"].to_pylist()
    assert found == [f"row {at}" for at in range(30_000) if at != 7]
    assert json.loads((output / MANIFEST).read_text())["rows"] == 29_999


def test_a_shard_that_ends_every_worker_ends_the_command(tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "out"
    source.write_text(("a good film about music " * 100 + "\n") * 4000)  # one shard, some seconds of work
    run = subprocess.Popen(command(str(source), output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = set()
    while run.poll() is None:
        for worker in children(run, "ray::MapWorker"):
            if ".submit" in " ".join(worker.cmdline()):
                killed.add(worker.pid)
                worker.kill()
        time.sleep(0.05)
    said = run.communicate()[1]
    assert run.returncode == 1 and len(killed) == 1 + RETRIES, (killed, said)
    assert "minibert: RuntimeError: the workers failed: " in said and "the same command goes on" in said
    assert not (output / MANIFEST).exists()


def test_what_the_user_can_mend_is_one_line_wherever_it_comes_up(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.txt").write_text("a good film\n" * 500)
    (folder / "b.csv").write_text("review\nbad\n")
    done = subprocess.run(command(str(folder), tmp_path / "out", "--rows", "100"), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"minibert: {folder}/b.csv: no column text; columns found: review"
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / MANIFEST).exists()
