"""cluster/onprem.yaml on the lab's hosts, and jobs submitted to it from the user's host, as cluster/README.md says."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from s3fs import S3FileSystem

from lightning_modules.trace import VARIABLE
from tests.cluster.hosts import Host, until
from tests.cluster.lab import BUCKET, FOLDER, Lab, down
from tests.faults.harness import RANKS, Run

URL = "http://127.0.0.1:8265"  # the dashboard, forwarded to the user's host
USE_WHAT_IS_THERE = '[ -z "${MINIBERT_VENV:-}" ] || exec ln -sfn "$MINIBERT_VENV" "$HOME/minibert-venv"'
EPOCHS = 9  # of the faults' stages: as many as random_step needs
UP_SECONDS, JOIN_SECONDS = 120.0, 180.0
TOKEN = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'


class OnPrem:
    """A cluster of all the lab's hosts; the first is its head."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.user, (self.head, *self.workers) = lab, lab.user, lab.hosts
        self._forward: subprocess.Popen[str] | None = None

    @property
    def config(self) -> Path:
        return self.user.home / "minibert" / "cluster" / "onprem.yaml"

    def fill_in(self) -> None:
        """onprem.yaml's places, as its reader does it; nothing else is changed."""
        places = {
            "<HEAD_IP>": self.head.address,
            "<WORKER_IPS>": ", ".join(host.address for host in self.workers),
            "<SSH_USER>": "root",
            "<SSH_PRIVATE_KEY>": "~/.ssh/id_ed25519",
        }
        text = self.config.read_text()
        for place, value in places.items():
            assert text.count(f" {place}") + text.count(f"[{place}") == 1, f"{self.config}: {place}"
            text = text.replace(place, value)
        self.config.write_text(text)
        install = self.config.with_name("install.sh")
        script = install.read_text()
        if "MINIBERT_VENV" not in script:  # hosts of the lab reach no package index: what is installed here is used
            install.write_text(script.replace("\nset -eu\n", f"\nset -eu\n{USE_WHAT_IS_THERE}\n"))

    def up(self) -> float:
        """`ray up`, also of a cluster that is up; returns the seconds until all workers are there."""
        began = time.monotonic()
        log = self.user.exec("ray up -y --no-config-cache cluster/onprem.yaml", seconds=UP_SECONDS)
        (FOLDER / "up.log").write_text(log.stdout + log.stderr)
        self.forward()
        self.wait_for(len(self.lab.hosts))
        return time.monotonic() - began

    def forward(self) -> None:
        """`ray dashboard`, beside all that follows."""
        if self._forward is None or self._forward.poll() is not None:
            forward = "ray dashboard --no-config-cache cluster/onprem.yaml"
            self._forward = self.user.start(forward, FOLDER / "forward.log")
        until(lambda: self.user.exec(f"curl -sf {URL}/api/version {TOKEN}", check=False).returncode == 0, URL, 60)

    def alive(self) -> set[str]:
        """The addresses of the hosts that Ray counts on."""
        found = self.user.exec(f"curl -s {URL}/api/v0/nodes {TOKEN}", check=False).stdout
        try:
            nodes = json.loads(found)["data"]["result"]["result"]
        except (ValueError, KeyError, TypeError):  # the head is only just starting
            return set()
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.alive()) == count, f"{count} hosts in the cluster", JOIN_SECONDS, self.alive)

    def host_of(self, trace: Path) -> Host:
        """Where the process that wrote that trace ran."""
        name = trace.stem.rpartition("-")[0]
        return next(host for host in self.lab.hosts if host.name == name)


@contextmanager
def brought_up(hosts: int) -> Iterator[OnPrem]:
    """The cluster on a new lab, whose storage this environment names; at the end nothing of either is left."""
    lab = Lab(hosts).up()
    try:
        with mock.patch.dict(os.environ, lab.environment):
            S3FileSystem.clear_instance_cache()
            cluster = OnPrem(lab)
            cluster.fill_in()
            cluster.user.exec("ray get-auth-token --generate")
            cluster.up()
            yield cluster
    finally:
        down()


class Job(Run):
    """An experiment whose driver is a Ray job. `process` is `ray job submit` on the user's host: it shows the driver's
    log, and ends with 0 where the job succeeded."""

    def __init__(self, cluster: OnPrem, name: str, **defaults: object) -> None:
        settings = {"epochs": EPOCHS, **defaults}
        super().__init__(FOLDER / "jobs" / name, f"s3://{BUCKET}/{name}", cluster.lab.environment, **settings)
        self.cluster, self.name, self.count = cluster, name, 0
        environment = yaml.safe_load((cluster.config.parent / "runtime_env.yaml").read_text())
        environment["env_vars"] |= {VARIABLE: str(self.trace)}  # workers have their node's, not the driver's
        self.driver = ["python", "-m", "ray_jobs"]
        self.runtime_env = self.folder / "runtime_env.yaml"
        self.runtime_env.write_text(yaml.safe_dump(environment))

    @property
    def submission(self) -> str:
        return f"{self.name}-{self.count}"

    def start(self, workers: str = str(RANKS), **environment: str) -> subprocess.Popen[str]:
        assert not environment, "a job's driver has the head's"
        return self.submit(str(self.folder / "faults.yaml"), "--workers", workers)

    def submit(self, recipe: str, *options: str) -> subprocess.Popen[str]:
        self.count += 1
        driver = [*self.driver, "train", recipe, "--storage", self.storage, *options]
        command = ["PYTHONUNBUFFERED=1", "ray", "job", "submit", "--address", URL, "--submission-id", self.submission]
        command += ["--runtime-env", str(self.runtime_env), "--working-dir", ".", "--", *driver]
        self.log = self.folder / f"output-{self.count}.txt"
        self.began = time.monotonic()
        self.process = self.cluster.user.start(f"env {shlex.join(command)}", self.log)
        self.started.append(self)
        return self.process

    def stop(self) -> None:
        self.cluster.user.exec(f"ray job stop --address {URL} {self.submission}", check=False)

    def end(self) -> None:
        """Leaves nothing running, however the test ended."""
        if self.process and self.process.poll() is None:
            self.stop()
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def goes_on(self, stage: str, since: float, reached: int) -> float:
        """Seconds since a fault until a step beyond `reached` is done, by whichever workers."""
        return self.until(lambda: self.furthest(stage) > reached, f"{stage} beyond {reached}") - since

    def facts(self) -> dict[str, Any]:
        """What Ray knows of the job."""
        found: dict[str, Any] = json.loads(
            self.cluster.user.exec(f"curl -s {URL}/api/jobs/{self.submission} {TOKEN}").stdout
        )
        return found
