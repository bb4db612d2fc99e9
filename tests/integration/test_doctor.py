"""`minibert doctor`: a line a fact, in time, and never a secret."""

from __future__ import annotations

import socket
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from multitask.storage import retries
from multitask.storage.storage import Storage
from ray_jobs.doctor import machine, network, software, storage_check
from tests.integration.test_experiment import minibert
from tests.s3 import S3
from tests.servers import SETTINGS_FRAME, server_that_says


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str]]:
    """The exit status; subject -> the whole line."""
    status = minibert("doctor", *words)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "note", "problem") for line in lines)
    return status, {line.split()[1]: line for line in lines}


def test_a_sound_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = asked(capsys, "--storage", str(tmp_path))
    assert status == 0, lines
    assert "torch 2." in lines["libraries"] and "s3fs" in lines["libraries"]
    assert {"python", "cpu", "temporary", "encoder", "storage", "ray"} <= lines.keys()
    assert all(f"{name} " in lines["storage"] for name in ("write", "read", "list", "remove"))
    assert "a local Ray is started" in lines["ray"]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_without_a_storage_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = asked(capsys)
    assert status == 0 and "give --storage URI" in lines["storage"]


def test_an_s3_storage(s3: S3, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, lines = asked(capsys, "--storage", f"{s3.uri}/runs")
    assert status == 0, lines
    assert f"endpoint {s3.url}, region us-east-1" in lines["s3"]
    assert lines["credentials"].endswith("from env")
    assert "S3_ENDPOINT is that endpoint" in lines["tensorboard"]
    assert "write " in lines["storage"]
    assert "never-shown" not in "".join(lines.values())
    assert Storage(s3.uri).list() == []
    monkeypatch.setenv("S3_ENDPOINT", "http://elsewhere:9000")
    assert f"export S3_ENDPOINT={s3.url}" in asked(capsys, "--storage", s3.uri)[1]["tensorboard"]
    monkeypatch.delenv("S3_ENDPOINT")
    assert "takes AWS_ENDPOINT_URL" in asked(capsys, "--storage", s3.uri)[1]["tensorboard"]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("refuse writes", "Access Denied; permission is missing"), ("slow down", "Please reduce your request rate")],
)
def test_an_s3_storage_that_fails(
    s3: S3, kind: str, wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_check, "STORAGE_SECONDS", 3.0)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    s3.fail(kind)
    status, lines = asked(capsys, "--storage", s3.uri)
    assert status == 2
    assert lines["storage"].startswith("problem") and wanted in lines["storage"]
    assert retries.PATIENCE == 120, "the patience of a run is as it was"


def test_an_s3_storage_that_does_not_answer(
    s3: S3, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_check, "STORAGE_SECONDS", 0.5)
    s3.fail("hang", pause=2.0)
    status, lines = asked(capsys, "--storage", s3.uri)
    assert status == 2
    assert "no answer within 0.5 s" in lines["storage"] and "ray" in lines


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("nosuch://x", "storage 'nosuch://x'"),
        ("/proc/nowhere", "cannot be written"),
        ("s3://no-such-bucket/x", "does not exist; the bucket or folder it should lie in is not there"),
    ],
)
def test_a_storage_that_is_no_good(s3: S3, uri: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = asked(capsys, "--storage", uri)
    assert status == 2
    assert lines["storage"].startswith("problem") and wanted in lines["storage"]


def test_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_that_says(SETTINGS_FRAME) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert network.check_ray().line().startswith("ok") and f"{address} answers" in network.check_ray().fact
    assert network.check_ray().verdict == "problem"
    assert f"no connection to {address}" in network.check_ray().fact


@pytest.mark.parametrize("address", ["head", "127.0.0.1", "127.0.0.1:port", "http://127.0.0.1:8265"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = network.check_ray()
    assert found.verdict == "problem" and "valid: HOST:PORT" in found.fact


def test_versions_that_are_not_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version
    others = {"s3fs": "2020.1", "fsspec": "2099.1"}
    monkeypatch.setattr(software, "version", lambda name: others.get(name) or real(name))
    found = {finding.subject: finding for finding in software.check_versions()}
    assert found["s3fs"].verdict == "problem" and "pip install" in found["s3fs"].fact
    assert found["fsspec"].verdict == "note" and "tested with" in found["fsspec"].fact
    assert "s3fs" not in found["libraries"].fact


def test_no_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fs = S3FileSystem(skip_instance_cache=True)
    found = {finding.subject: finding for finding in storage_check._s3_findings(fs)}
    assert found["credentials"].verdict == "problem"
    assert "AWS_ACCESS_KEY_ID" in found["credentials"].fact


def test_an_extra_that_is_not_there_is_said_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version

    def without(name: str) -> str:
        if name in ("onnx", "fastapi"):
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(software, "version", without)
    found = {finding.subject: finding for finding in software.check_extras()}
    assert {name: found[name].verdict for name in found} == {
        **dict.fromkeys(("recruit", "mlflow", "wandb"), "ok"),
        "serve": "note",
        "export": "note",
    }
    assert "onnx not installed: pip install 'minibert-multitask[export]'" in found["export"].fact
    assert "fastapi" in found["serve"].fact


@pytest.mark.parametrize("extra", ["", *software.EXTRAS])
def test_installed_or_in_a_checkout_the_same_is_declared(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((software.CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for name, some in project["optional-dependencies"].items():
        lines += [f'{line}; extra == "{name}"' for line in some]
    here = {need.name for need in software._declared(extra)}
    monkeypatch.setattr(software, "CHECKOUT", tmp_path)
    monkeypatch.setattr(software, "requires", lambda package: lines)
    assert {need.name for need in software._declared(extra)} == here
    assert here


def test_a_container_with_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{3 << 29}\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (tmp_path / "memory.max",))
    assert "of which this container may use 1.5" in machine.check_processor().fact
    (tmp_path / "memory.max").write_text("max\n")
    assert "container" not in machine.check_processor().fact


def test_little_shared_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_ROOM", 1 << 60)
    found = machine.check_shared_memory()
    assert found.verdict == "note" and "--shm-size" in found.fact


def test_a_driver_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 10\nGCC version: 13.2\n")
    monkeypatch.setattr(machine, "DRIVER", driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (found,) = machine.check_devices()
    assert found.verdict == "problem" and "there is a driver (570.86.15)" in found.fact


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers 501 to everything
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "never-shown")
        found = network.check_hub()
        assert found.verdict == "ok" and found.fact == f"{url} answers; a token is there"
        server.shutdown()
    assert network.check_hub().verdict == "note" and "Connection refused" in network.check_hub().fact
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in network.check_hub().fact


def test_a_silent_hub_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "HUB_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and says nothing
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        found = network.check_hub()
    assert found.verdict == "note" and time.monotonic() - started < 3
