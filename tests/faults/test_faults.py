"""Faults on three ranks with dropout .3, each at a random step amid an epoch, against an undisturbed run: weights,
optimizer moments and the ids that were fed, bit for bit. Nothing is mocked but the S3 server's answers.

`make faults` runs all of them and writes the table of docs/reliability.md; `make test` runs one, drawn by the commit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.faults.harness import RANKS, STAGES, Run, random_step, same_as
from tests.s3 import S3

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(600)]


def goes_on(run: Run, stage: str) -> float:
    """The same command again, to its end; seconds from its start to the first new step."""
    before = run.traces()
    run.start()
    seconds = run.recovers(stage, run.began, before)
    run.complete()
    return seconds


@pytest.mark.parametrize("rank", [0, RANKS - 1])
def test_a_worker_is_killed(tmp_path: Path, undisturbed: Run, told: Callable[..., None], rank: int) -> None:
    run, (stage, step) = Run(tmp_path), random_step(f"worker {rank}")
    run.start()
    run.wait_for(stage, step)
    before, since = run.traces(), time.monotonic()
    os.kill(run.pid_of(rank), signal.SIGKILL)
    seconds = run.recovers(stage, since, before)
    run.complete()
    assert "3 workers started again" in run.output()
    same_as(undisturbed, run)
    told(run, f"kill -9 of rank {rank}, {stage} step {step}", "Ray started the workers again", seconds)


def test_the_driver_is_killed(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("driver")
    run.start()
    run.wait_for(stage, step)
    run.kill()
    seconds = goes_on(run, stage)
    same_as(undisturbed, run)
    told(run, f"kill -9 of the driver, {stage} step {step}", "the same command went on", seconds)


@pytest.mark.usefixtures("hears_hangups")
@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGTERM, "SIGTERM, 30 s of grace"),
        (signal.SIGHUP, "the terminal goes away"),
        (signal.SIGINT, "Ctrl-C"),
    ],
)
def test_the_driver_is_asked_to_stop(
    tmp_path: Path, undisturbed: Run, told: Callable[..., None], number: int, word: str
) -> None:
    run, (_, step) = Run(tmp_path), random_step(word)
    stage = STAGES[0]  # a stop may take a second or two: not the last stage, which may end meanwhile
    process = run.start()
    run.wait_for(stage, step)
    if number == signal.SIGTERM:
        process.terminate()
    else:
        run.interrupt(number)
    assert run.finish(30) == 130, run.output()
    assert "go on with: minibert train" in run.output()
    assert run.last(stage).state.position.steps == run.furthest(stage), "what was done has been saved"
    assert run.row(stage)["status"] == "interrupted"
    seconds = goes_on(run, stage)
    same_as(undisturbed, run)
    assert run.fed().repeated() == 0
    told(run, f"{word}, {stage} step {step}", "saved, exit 130; the same command went on", seconds)


def test_a_second_driver_and_ctrl_c_twice(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (_, step) = Run(tmp_path), random_step("twice")
    stage = STAGES[0]
    first = run.start()
    run.until(lambda: Path(run.storage, "faults", "driver.json").exists(), "a lease")
    refused(run, f"another driver is at work on it, process {first.pid}")
    run.wait_for(stage, step)
    run.interrupt()
    time.sleep(0.2)
    asked = run.interrupt()
    assert run.finish(10) == 130, run.output()
    took = time.monotonic() - asked
    seconds = goes_on(run, stage)
    same_as(undisturbed, run)
    fault = f"a second driver beside the first, then Ctrl-C twice, {stage} step {step}"
    outcome = f"the second refused, exit 2; ended in {took:.1f} s; the same command went on"
    told(run, fault, outcome, seconds)


def refused(run: Run, reason: str) -> None:
    """Starts another driver on that experiment; the first goes on."""
    first, log = run.process, run.log
    assert run.start().wait(60) == 2, run.output()
    assert reason in run.output()
    run.process, run.log = first, log


def test_the_newest_checkpoint_is_corrupt(tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    run, (stage, step) = Run(tmp_path), random_step("corrupt")
    run.start()
    run.wait_for(stage, step)
    run.kill()
    newest = sorted(path.parent for path in run.checkpoints(stage).glob("*/manifest.json"))[-1]
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    seconds = goes_on(run, stage)
    assert "damaged, using an older one" in run.output()
    same_as(undisturbed, run)
    told(run, f"a bit of the newest checkpoint, {stage} step {step}", "passed over for the one before", seconds)


def test_s3_fails_for_30_seconds_and_then_one_request_in_ten(
    s3_server: S3, on_s3: Run, undisturbed: Run, told: Callable[..., None]
) -> None:
    stage, step = STAGES[0], random_step("s3")[1]
    on_s3.start()
    on_s3.wait_for(stage, step)
    s3_server.fail("slow down", seconds=30)
    time.sleep(30)
    s3_server.fail("some", share=0.1, seed=1)
    on_s3.complete()
    failed = s3_server.proxy.failed()
    s3_server.heal()
    assert failed > 10
    same_as(undisturbed, on_s3)
    fault = f"S3 answers 503 for 30 s, then fails one request in ten, {stage} step {step}"
    told(on_s3, fault, f"{failed} requests failed; what had to be written waited")


def test_s3_refuses_writes_for_good(s3_server: S3, on_s3: Run, undisturbed: Run, told: Callable[..., None]) -> None:
    stage, step = STAGES[0], random_step("refuse")[1]
    on_s3.start()
    on_s3.wait_for(stage, step)
    s3_server.fail("refuse writes")
    ends_with_one_line(on_s3, "Access")
    s3_server.heal()
    seconds = goes_on(on_s3, stage)
    same_as(undisturbed, on_s3)
    told(on_s3, f"S3 refuses writes for good, {stage} step {step}", "one line, exit 2; later it went on", seconds)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which takes root")
def test_the_disk_is_full(on_s3: Run, tmp_path: Path, undisturbed: Run, told: Callable[..., None]) -> None:
    """Where a worker keeps a snapshot until it is uploaded."""
    stage, step = STAGES[0], random_step("full")[1]
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    try:
        on_s3.environment |= {"TMPDIR": str(disk), "RAY_TMPDIR": "/tmp"}
        on_s3.start()
        on_s3.wait_for(stage, step)
        filler = disk / "filler"
        with open(filler, "wb") as file:
            while write(file, b"0" * (1 << 20)):
                continue
        ends_with_one_line(on_s3, "No space left on device")
        filler.unlink()
        seconds = goes_on(on_s3, stage)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    same_as(undisturbed, on_s3)
    told(
        on_s3, f"a worker's temporary disk is full, {stage} step {step}", "one line, exit 2; later it went on", seconds
    )


def write(file: BinaryIO, block: bytes) -> bool:
    """Whether there was room for it."""
    try:
        file.write(block)
        file.flush()
    except OSError:
        return False
    return True


def ends_with_one_line(run: Run, reason: str) -> None:
    assert run.finish(120) == 2, run.output()
    lines = [line for line in run.output().splitlines() if line.startswith("minibert: ")]
    assert len(lines) == 1 and reason in lines[0], run.output()
    assert "Traceback" not in run.output()


def test_stages_are_those_of_the_harness(undisturbed: Run) -> None:
    assert {stage for stage, _ in undisturbed.fed().ids} == set(STAGES)
