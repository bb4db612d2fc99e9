"""Faults on three ranks with dropout .3, each at a random step amid an epoch, against an undisturbed run: weights,
optimizer moments and the ids that were fed, bit for bit. Nothing is mocked but the S3 server's answers.

`make faults` runs all of them and writes the table of docs/reliability.md; the quick ones are part of CI.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.s3 import S3

from tests.faults.harness import STAGES, Run, random_step, same_as, workers_of
from tests.faults.rows import Row, record

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(600)]
quick = pytest.mark.quick


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.start()
    run.complete()
    assert run.fed().repeated() == 0
    return run


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture
def on_s3(s3: S3, tmp_path: Path) -> Run:
    s3.heal()
    s3.new_bucket()
    return Run(tmp_path, f"{s3.uri}/runs", s3.environment)


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes a row of the table, under the test's name."""

    def tell(run: Run, fault: str, outcome: str, seconds: float | None, equal: str = "equal") -> None:
        record(Row(request.node.name, fault, outcome, seconds, run.fed().repeated(), equal))

    return tell


@quick
def test_a_worker_is_killed(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("worker")
    process = run.start()
    run.wait_for(stage, step)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    since, reached = time.monotonic(), run.furthest(stage)
    seconds = run.recovers(stage, reached, since)
    run.complete()
    same_as(undisturbed, run)
    told(run, f"kill -9 of a worker, {stage} step {reached}", "Ray started the workers again, same command", seconds)


@quick
def test_the_driver_is_killed(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("driver")
    run.start()
    run.wait_for(stage, step)
    run.kill()
    run.finish()
    reached = run.furthest(stage)
    run.start()
    seconds = run.recovers(stage, reached, run.began)
    run.complete()
    same_as(undisturbed, run)
    told(run, f"kill -9 of the driver, {stage} step {reached}", "the same command went on", seconds)


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGTERM, "SIGTERM, 30 s of grace"), pytest.param(signal.SIGINT, "Ctrl-C", marks=quick)]
)
def test_the_driver_is_asked_to_stop(
    tmp_path: Path, undisturbed: Run, told: Callable[..., None], number: int, word: str
) -> None:
    run, (stage, step) = Run(tmp_path), random_step(word)
    run.start()
    run.wait_for(stage, step)
    run.kill(number)
    assert run.finish(30) == 130
    assert "go on with: minibert train" in run.output()
    reached = run.furthest(stage)
    assert run.last(stage).state.position.steps == reached  # nothing was lost
    run.start()
    seconds = run.recovers(stage, reached, run.began)
    run.complete()
    same_as(undisturbed, run)
    assert run.fed().repeated() == 0
    told(run, f"{word}, {stage} step {reached}", "saved, exit 130; the same command went on", seconds)


def test_ctrl_c_twice(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("twice")
    run.start()
    run.wait_for(stage, step)
    run.kill(signal.SIGINT)
    time.sleep(0.2)
    asked = run.kill(signal.SIGINT)
    assert run.finish(10) == 130
    took = time.monotonic() - asked
    reached = run.furthest(stage)
    run.start()
    seconds = run.recovers(stage, reached, run.began)
    run.complete()
    same_as(undisturbed, run)
    told(run, f"Ctrl-C twice, {stage} step {reached}", f"ended in {took:.1f} s; the same command went on", seconds)


@quick
def test_the_newest_checkpoint_is_corrupt(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("corrupt")
    run.start()
    run.wait_for(stage, step)
    run.kill()
    run.finish()
    newest = sorted(path.parent for path in run.checkpoints(stage).glob("*/manifest.json"))[-1]
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    reached = run.furthest(stage)
    run.start()
    seconds = run.recovers(stage, reached, run.began)
    run.complete()
    same_as(undisturbed, run)
    told(run, f"one bit of the newest checkpoint, {stage} step {reached}", "passed over for the one before", seconds)


@quick
def test_a_second_driver(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("second")
    first = run.start()
    run.wait_for(stage, step)
    log = run.log
    second = run.start()
    assert second.wait(60) == 2
    assert f"another driver is at work on it, process {first.pid}" in run.output()
    run.process, run.log = first, log
    run.complete()
    same_as(undisturbed, run)
    told(run, f"a second driver, {stage} step {step}", "refused, exit 2; the first was not disturbed", None)


def test_s3_fails_for_30_seconds_and_then_one_request_in_ten(
    s3: S3, on_s3: Run, undisturbed: Run, told: Callable[..., None]
) -> None:
    stage, step = random_step("s3")
    on_s3.start()
    on_s3.wait_for(stage, step)
    s3.fail("slow down", seconds=30)
    since, reached = time.monotonic(), on_s3.furthest(stage)
    time.sleep(30)
    s3.fail("some", share=0.1, seed=1)
    seconds = on_s3.recovers(stage, reached, since)
    on_s3.complete()
    s3.heal()
    same_as(undisturbed, on_s3)
    told(on_s3, f"S3 answers 503 for 30 s, then one request in ten fails, {stage} step {reached}", "waited", seconds)


def test_s3_refuses_writes_for_good(s3: S3, on_s3: Run, undisturbed: Run, told: Callable[..., None]) -> None:
    stage, step = random_step("refuse")
    on_s3.start()
    on_s3.wait_for(stage, step)
    s3.fail("refuse writes")
    assert on_s3.finish(120) == 2
    lines = [line for line in on_s3.output().splitlines() if line.startswith("minibert: ")]
    assert len(lines) == 1 and "Access" in lines[0] and "Traceback" not in on_s3.output()
    s3.heal()
    reached = on_s3.furthest(stage)
    on_s3.start()
    seconds = on_s3.recovers(stage, reached, on_s3.began)
    on_s3.complete()
    same_as(undisturbed, on_s3)
    told(on_s3, f"S3 refuses writes for good, {stage} step {reached}", "one line, exit 2; then it went on", seconds)


def test_stages_are_those_of_the_harness(undisturbed: Run) -> None:
    assert {stage for stage, _ in undisturbed.fed().ids} == set(STAGES)
