"""cluster/spot_notice.py as a process: against a metadata server over HTTP, a process named raylet, and a `ray` that
notes what it was asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "cluster" / "spot_notice.py"
GCS = "10.1.2.3:6379"
EC2_TOKEN, ACTION = "/latest/api/token", "/latest/meta-data/spot/instance-action"
PREEMPTED = "/computeMetadata/v1/instance/preempted"
PATIENCE = 20.0
# Notes its arguments, one a line, and ends with the status that a file beside it says.
RAY = """#!/bin/sh
{ printf '%s\\n' "$@"; echo; } >> "$(dirname "$0")/asked"
exit $(cat "$(dirname "$0")/status")
"""


class Metadata(ThreadingHTTPServer):
    """A cloud's metadata server. answers: path -> body; None says that the node has none, and 404 is answered."""

    daemon_threads = True

    def __init__(self, cloud: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cloud, self.seen = cloud, 0
        self.answers: dict[str, str | None] = {PREEMPTED: "FALSE"} if cloud == "gce" else {ACTION: None}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def notice(self, seconds: float = 0) -> None:
        if self.cloud == "gce":
            self.answers[PREEMPTED] = "TRUE"
        else:
            end = datetime.now(UTC) + timedelta(seconds=seconds)
            self.answers[ACTION] = json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")})


class Handler(BaseHTTPRequestHandler):
    """Answers those alone who ask as the cloud wants it."""

    server: Metadata

    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.server.cloud == "ec2" and self.path == EC2_TOKEN and ttl.isdigit():
            return self.give(200, "a token")
        self.give(404, "")

    def do_GET(self) -> None:
        asks_rightly = {
            "ec2": self.headers.get("X-aws-ec2-metadata-token") == "a token",
            "gce": self.headers.get("Metadata-Flavor") == "Google",
        }[self.server.cloud]
        if not asks_rightly:
            return self.give(401, "")
        self.server.seen += 1
        body = self.server.answers.get(self.path)
        self.give(404 if body is None else 200, body or "")

    def give(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


class Node:
    """A machine with a raylet and a `ray` of its own."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.node_id = folder / "bin", uuid4().hex
        self.bin.mkdir()
        (self.bin / "ray").write_text(RAY)
        (self.bin / "ray").chmod(0o755)
        self.accepts(True)
        self.processes: list[subprocess.Popen[str]] = []
        # The shell has more to do after `sleep` and so stays what it is: a process whose first word is raylet.
        words = ["/opt/ray/raylet", "-c", "sleep 60; true", "--object_manager_port=0", f"--node_id={self.node_id}"]
        self.raylet = self._run([*words, f"--gcs-address={GCS}", '--labels={"a": "b=c"}'], executable="/bin/sh")
        wait(lambda: Path(f"/proc/{self.raylet.pid}/cmdline").read_bytes().startswith(b"/opt/ray/raylet"))

    def _run(self, command: list[str], **how: object) -> subprocess.Popen[str]:
        # A proxy that the environment names must not be asked: nothing listens there.
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "http_proxy": "http://127.0.0.1:9"}
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            start_new_session=True,
            **how,  # type: ignore[call-overload]
        )
        self.processes.append(process)
        return process

    def watch(self, *options: str) -> subprocess.Popen[str]:
        return self._run([sys.executable, str(SCRIPT), "--every", "0.1", *options])

    def accepts(self, well: bool) -> None:
        (self.bin / "status").write_text("0" if well else "1")

    def asked(self) -> list[list[str]]:
        """What `ray` was called with, call by call."""
        file = self.bin / "asked"
        return [call.split("\n") for call in file.read_text().split("\n\n") if call] if file.exists() else []

    def end(self) -> None:
        for process in self.processes:
            process.kill() if process is not self.raylet else os.killpg(process.pid, 9)
            process.communicate()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    started = Node(tmp_path)
    yield started
    started.end()


@pytest.fixture
def metadata(request: pytest.FixtureRequest) -> Iterator[Metadata]:
    server = Metadata(request.param)
    yield server
    server.close()


def options(call: list[str]) -> dict[str, str]:
    assert call[0] == "drain-node"
    return dict(zip(call[1::2], call[2::2], strict=True))


@pytest.mark.parametrize(("metadata", "shortest", "longest"), [("ec2", 85, 90), ("gce", 25, 25)], indirect=["metadata"])
def test_a_notice_drains_this_node_once(node: Node, metadata: Metadata, shortest: int, longest: int) -> None:
    watcher = node.watch("--metadata", metadata.url)
    wait(lambda: metadata.seen > 2)
    assert not node.asked()
    metadata.notice(90)
    output, _ = watcher.communicate(timeout=PATIENCE)
    assert watcher.returncode == 0, output
    (call,) = node.asked()
    said = options(call)
    assert (said["--node-id"], said["--address"]) == (node.node_id, GCS)
    assert said["--reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert shortest <= int(said["--deadline-remaining-seconds"]) <= longest


@pytest.mark.parametrize("metadata", ["ec2"], indirect=True)
def test_a_drain_that_ray_refuses_is_tried_again(node: Node, metadata: Metadata) -> None:
    node.accepts(False)
    metadata.notice(-5)  # the cloud is late: what is left is not less than nothing
    watcher = node.watch("--metadata", metadata.url)
    wait(lambda: len(node.asked()) > 1)
    node.accepts(True)
    assert watcher.wait(PATIENCE) == 0
    assert {options(call)["--deadline-remaining-seconds"] for call in node.asked()} == {"0"}


@pytest.mark.parametrize("metadata", ["ec2"], indirect=True)
def test_a_recommendation_to_rebalance_is_no_notice(node: Node, metadata: Metadata) -> None:
    metadata.answers["/latest/meta-data/events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'
    node.watch("--metadata", metadata.url)
    wait(lambda: metadata.seen > 3)
    assert not node.asked()


@pytest.mark.parametrize("metadata", ["ec2", "gce"], indirect=True)
def test_it_ends_with_its_raylet(node: Node, metadata: Metadata) -> None:
    watcher = node.watch("--metadata", metadata.url)
    wait(lambda: metadata.seen > 1)
    os.killpg(node.raylet.pid, 9)  # and is not waited for: a dead process's entry in /proc must not count
    assert watcher.wait(PATIENCE) == 0
    assert not node.asked()


@pytest.mark.parametrize("metadata", ["gce"], indirect=True)
def test_a_second_one_ends_at_once_and_the_first_goes_on(node: Node, metadata: Metadata) -> None:
    first = node.watch("--metadata", metadata.url)
    wait(lambda: metadata.seen)
    second = node.watch("--metadata", metadata.url)
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert "another one watches" in output
    metadata.notice()
    assert first.wait(PATIENCE) == 0
    assert len(node.asked()) == 1


def test_a_metadata_server_that_comes_late_is_found(node: Node) -> None:
    early = Metadata("ec2")
    early.close()
    watcher = node.watch("--metadata", early.url)
    assert watcher.stdout
    wait(lambda: "Connection refused" in watcher.stdout.readline())
    late = Metadata("ec2", early.server_port)
    late.notice(60)
    assert watcher.wait(PATIENCE) == 0
    late.close()
    assert len(node.asked()) == 1


@pytest.mark.slow
def test_a_pod_drains_and_stays_for_its_grace(node: Node) -> None:
    since = time.monotonic()
    pod = node.watch("--leaves-in", "1.5")
    wait(node.asked)
    assert pod.poll() is None
    assert pod.wait(PATIENCE) == 0
    assert time.monotonic() - since >= 1.5
    (call,) = node.asked()
    assert options(call)["--deadline-remaining-seconds"] == "1"
