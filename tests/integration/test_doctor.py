"""`minibert doctor`: a line a fact, in time, and never a secret."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from multitask import retries
from multitask.storage import Storage
from ray_jobs import doctor
from tests.integration.test_experiment import minibert
from tests.s3 import S3


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
    monkeypatch.setattr(doctor, "STORAGE_SECONDS", 3.0)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    s3.fail(kind)
    status, lines = asked(capsys, "--storage", s3.uri)
    assert status == 2
    assert lines["storage"].startswith("problem") and wanted in lines["storage"]
    assert retries.PATIENCE == 120, "the patience of a run is as it was"


def test_an_s3_storage_that_does_not_answer(
    s3: S3, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STORAGE_SECONDS", 0.5)
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
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert doctor.check_ray().line().startswith("ok") and f"{address} answers" in doctor.check_ray().fact
    assert doctor.check_ray().verdict == "problem"
    assert f"no connection to {address}" in doctor.check_ray().fact


@pytest.mark.parametrize("address", ["head", "127.0.0.1", "127.0.0.1:port", "http://127.0.0.1:8265"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = doctor.check_ray()
    assert found.verdict == "problem" and "valid: HOST:PORT" in found.fact


def test_versions_that_are_not_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version
    others = {"s3fs": "2020.1", "fsspec": "2099.1"}
    monkeypatch.setattr(doctor, "version", lambda name: others.get(name) or real(name))
    found = {finding.subject: finding for finding in doctor.check_versions()}
    assert found["s3fs"].verdict == "problem" and "pip install" in found["s3fs"].fact
    assert found["fsspec"].verdict == "note" and "tested with" in found["fsspec"].fact
    assert "s3fs" not in found["libraries"].fact


def test_no_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fs = S3FileSystem(skip_instance_cache=True)
    found = {finding.subject: finding for finding in doctor._s3_findings(fs)}
    assert found["credentials"].verdict == "problem"
    assert "AWS_ACCESS_KEY_ID" in found["credentials"].fact
