"""One host of the lab: a network namespace with a cable to the bridge, and in it a space of processes and mounts.

It is on as long as its process 1 lives; what runs on it ends with that. Its folder is its disk, and outlives that.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Another name and network make another lab, beside the first.
PREFIX = os.environ.get("MINIBERT_LAB", "mblab")
NETWORK = os.environ.get("MINIBERT_LAB_NETWORK", "10.213.7")
FOLDER = Path("/var/tmp") / PREFIX  # not below /tmp, which every host has for itself
BRIDGE = f"{NETWORK}.254"
METADATA = "169.254.169.254"  # a cloud's, on each host's own loopback
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
START_SECONDS = 15.0


@dataclass(frozen=True)
class Host:
    """A machine of the lab, on or off. number: the last part of its address."""

    name: str
    number: int

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def notice(self) -> Path:
        """What its metadata service says of its end; no file, no notice."""
        return self.folder / "notice"

    @property
    def cable(self) -> str:
        """The bridge's end of it."""
        return f"{PREFIX}v{self.number}"

    def on(self) -> None:
        """Starts it; returns when its sshd answers."""
        name = self.name
        call("ip", "netns", "add", name)
        card = f"02:00:00:00:00:{self.number:02x}"  # the same at every start, or the others would look for the old one
        inner = ["peer", "name", "eth0", "address", card, "netns", name]
        call("ip", "link", "add", self.cable, "type", "veth", *inner)
        call("ip", "link", "set", self.cable, "master", PREFIX, "up")
        call("ip", "-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        call("ip", "-n", name, "address", "add", f"{METADATA}/32", "dev", "lo")
        for device in ("lo", "eth0"):
            call("ip", "-n", name, "link", "set", device, "up")
        call("ip", "-n", name, "route", "add", "default", "via", BRIDGE)  # Ray looks there for its own address
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--mount-proc"]
        with open(self.folder / "console", "a") as console:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, *apart, "bash", str(self.folder / "init")],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, env={"PATH": PATH},
                start_new_session=True, cwd="/",
            )  # fmt: skip
        (self.folder / "pid").write_text(str(process.pid))
        until(lambda: answers(self.address, 22), f"sshd of {name}: {self.folder / 'console'}")

    def off(self) -> None:
        """A power cut: its cable goes first, so that no peer hears of the end of its processes."""
        call("ip", "link", "del", self.cable)
        init = self._init()
        if init:
            os.kill(init, signal.SIGKILL)
        remove_namespace(self.name)
        self.notice.unlink(missing_ok=True)

    @property
    def is_on(self) -> bool:
        return self._init() is not None

    def unplug(self) -> None:
        call("ip", "link", "set", self.cable, "down")

    def plug(self) -> None:
        call("ip", "link", "set", self.cable, "up")

    def limit(self, rate: str | None) -> None:
        """How fast anything comes to this host, such as 100mbit; None: as fast as it goes."""
        call("tc", "qdisc", "del", "dev", self.cable, "root", check=False)
        if rate:
            shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
            call("tc", "qdisc", "add", "dev", self.cable, "root", *shape)

    def _init(self) -> int | None:
        """Its process 1, as this machine counts."""
        try:
            outer = (self.folder / "pid").read_text()
            return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            return None

    def command(self, command: str) -> list[str]:
        """What runs a command in a login shell of this host, in its checkout, or home where that is not there yet."""
        init = self._init()
        assert init, f"{self.name} is off"
        shell = ["bash", "--login", "-c", f"source ~/.bashrc; cd ~/minibert 2> {os.devnull} || cd; {command}"]
        inside = ["env", "-i", f"HOME={self.home}", f"PATH={PATH}", "USER=root", "TERM=dumb", *shell]
        return ["nsenter", f"--target={init}", "--mount", "--uts", "--net", "--pid", "--", *inside]

    def exec(self, command: str, check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(command), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done

    def start(self, command: str, log: Path) -> subprocess.Popen[str]:
        """The same beside this process, in a group of its own; its output goes to that file."""
        with open(log, "a") as output:
            return subprocess.Popen(
                self.command(command), stdout=output, stderr=output, stdin=subprocess.DEVNULL, text=True,
                start_new_session=True,
            )  # fmt: skip


def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": PATH})
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done


def answers(address: str, port: int) -> bool:
    """Whether something listens there, as seen from this machine."""
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def until(
    true: Callable[[], bool], what: str, seconds: float = START_SECONDS, now: Callable[[], object] = lambda: ""
) -> float:
    """Waits for it; returns how long. now: what there is instead, for the error."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + seconds, f"not within {seconds:g} s: {what} {now()}"
        time.sleep(0.1)
    return time.monotonic() - began


def namespaces() -> list[str]:
    listed = call("ip", "netns", "list").stdout.splitlines()
    return [line.split()[0] for line in listed if line.startswith(PREFIX)]


def remove_namespace(name: str) -> None:
    """Ends every process in it, and with the last one its mounts, its cable and itself."""

    def empty() -> bool:
        left = call("ip", "netns", "pids", name).stdout.split()
        for process in left:
            call("kill", "-KILL", process, check=False)
        return not left

    until(empty, f"{name} has no process left")
    call("ip", "netns", "del", name)
