"""Turns a cloud's notice that this spot node is about to be taken away into `ray drain-node`.

Nothing in Ray reads such notices; a training that learns of the drain saves, and goes on without the node. aws.yaml
and gcp.yaml start this on every worker after `ray start`; it ends with the raylet, and a second one ends at once:

    setsid -f python cluster/spot_notice.py         # EC2 or GCE, whichever answers

In Kubernetes a pod is told by its preStop hook, which has to last for as long as the pod may still work:

    python cluster/spot_notice.py --leaves-in 25

Needs `ray` on PATH and, in a cluster with a token, RAY_AUTH_MODE=token.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

METADATA = "http://169.254.169.254"  # both clouds'
PROC = Path("/proc")
GCE_SECONDS = 25.0  # of the 30 between notice and end, some have passed since the last look; EC2 says when
ASK_SECONDS, DRAIN_SECONDS = 2.0, 20.0  # to wait for the metadata server, for Ray


@dataclass(frozen=True, order=True)
class Raylet:
    """Ray's process on this node. started: in clock ticks since the machine's start."""

    started: int
    pid: int
    node_id: str
    gcs: str

    @classmethod
    def read(cls, pid: int) -> Raylet | None:
        """None where that process is gone, another one, or another container's."""
        at = PROC / str(pid)
        try:
            words = (at / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if os.path.basename(words[0]) != "raylet" or not os.path.samefile(at / "ns/pid", PROC / "self/ns/pid"):
                return None
            started = int((at / "stat").read_text().rpartition(")")[2].split()[19])
        except OSError:
            return None
        options = dict(word.split("=", 1) for word in words if "=" in word)
        return cls(started, pid, options["--node_id"], options["--gcs-address"])

    @classmethod
    def newest(cls) -> Raylet | None:
        """This node's; where several are on one machine, as in tests, the one that was started last."""
        return max(filter(None, (cls.read(int(at.name)) for at in PROC.iterdir() if at.name.isdigit())), default=None)

    def drain(self, seconds: float, why: str) -> bool:
        """Tells Ray that this node ends in so many seconds; whether Ray took it."""
        command = ["ray", "drain-node", "--address", self.gcs, "--node-id", self.node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", why]
        command += ["--deadline-remaining-seconds", str(max(0, int(seconds)))]
        say(" ".join(command))
        try:
            return subprocess.run(command, timeout=DRAIN_SECONDS).returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            say(str(error))
            return False


def ask(url: str, method: str = "GET", **headers: str) -> str:
    """By no proxy: what it would answer is about itself."""
    request = urllib.request.Request(url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return str(opener.open(request, timeout=ASK_SECONDS).read().decode())


def ec2(base: str) -> float | None:
    """Seconds left, None without a notice (advice to rebalance is none). Raises OSError where this is not EC2."""
    token = ask(f"{base}/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
    try:
        action = ask(f"{base}/latest/meta-data/spot/instance-action", X_aws_ec2_metadata_token=token)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    end = datetime.strptime(json.loads(action)["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (end - datetime.now(UTC)).total_seconds()


def gce(base: str) -> float | None:
    """As `ec2`."""
    preempted = ask(f"{base}/computeMetadata/v1/instance/preempted", Metadata_Flavor="Google")
    return GCE_SECONDS if preempted.strip() == "TRUE" else None


CLOUDS: dict[str, Callable[[str], float | None]] = {"ec2": ec2, "gce": gce}


def watch(raylet: Raylet, base: str, every: float) -> None:
    """Until the raylet ends or Ray knows of the notice."""
    clouds = CLOUDS
    while Raylet.read(raylet.pid) == raylet:
        for name, notice in clouds.items():
            try:
                left = notice(base)
            except (OSError, ValueError, KeyError) as error:
                say(f"{name}: {error}")
                continue
            clouds = {name: notice}  # the one that answers stays
            if left is not None and raylet.drain(left, f"{name}: spot notice"):
                return
            break
        time.sleep(every)


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", default=METADATA, help="the metadata server's address")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--leaves-in", type=float, help="drain now, and end in so many seconds")
    given = parser.parse_args()
    if not (raylet := Raylet.newest()):
        sys.exit("spot_notice: no raylet runs here; start this after `ray start`")
    if given.leaves_in is not None:
        end = time.monotonic() + given.leaves_in
        raylet.drain(given.leaves_in, "preStop: the pod is about to end")
        return time.sleep(max(0.0, end - time.monotonic()))
    with socket.socket(socket.AF_UNIX) as name:  # that only one process of this host can hold, and that ends with it
        try:
            name.bind(f"\0spot-notice-{raylet.node_id}")
        except OSError:
            return say(f"another one watches for node {raylet.node_id}")
        say(f"watching for node {raylet.node_id}")
        watch(raylet, given.metadata.rstrip("/"), given.every)


if __name__ == "__main__":
    main()
