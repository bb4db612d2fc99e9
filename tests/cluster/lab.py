"""Hosts on one machine: network namespaces on a bridge, each with sshd, its own processes, /tmp, home and name.

    python -m tests.cluster.lab up 3            # mblab0, where a user sits; mblab1, 2 and 3; an S3 endpoint on mblab-s3
    python -m tests.cluster.lab exec mblab0 'ssh -i ~/.ssh/id_ed25519 mblab1 hostname'
    python -m tests.cluster.lab off mblab2      # power cut: not a word to the others; `on` starts it again
    python -m tests.cluster.lab unplug mblab2   # its cable alone; `plug` again; `limit mblab2 100mbit`
    python -m tests.cluster.lab down            # whatever is left, also of a lab that was not ended

Takes root, `ip`, `unshare`, `sshd` and `rsync` (apt-get install iproute2 util-linux openssh-server rsync). The files of
this machine are the hosts' files too, but for /tmp, /run, /dev/shm, and for /etc/hosts and /etc/passwd, which give them
their names and homes. All they leave lies in /var/tmp/mblab.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from tests.cluster.hosts import (
    BRIDGE,
    FOLDER,
    METADATA,
    PATH,
    PREFIX,
    Host,
    answers,
    call,
    namespaces,
    remove_namespace,
    until,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
S3_PORT, BUCKET = 9000, "runs"
TOOLS = {"ip": "iproute2", "unshare": "util-linux", "sshd": "openssh-server", "rsync": "rsync", "curl": "curl"}
NOT_COPIED = (".venv", "/runs", "__pycache__", ".*_cache", ".hypothesis")  # of the checkout
SSHD = f"""\
Port 22
HostKey {FOLDER}/host_key
AuthorizedKeysFile {FOLDER}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
MaxStartups 100
PidFile none
"""


def missing() -> str | None:
    """Why there can be no lab on this machine; None where there can."""
    if os.geteuid() != 0:
        return "the lab's network namespaces take root"
    for tool, package in TOOLS.items():
        if not shutil.which(tool, path=PATH):
            return f"the lab needs `{tool}`: apt-get install {package}"
    if call("ip", "netns", "add", f"{PREFIX}-try", check=False).returncode != 0:
        return "the lab needs network namespaces, which this machine does not allow"
    call("ip", "netns", "del", f"{PREFIX}-try")
    return None


class Lab:
    """`count` hosts beside that of the user and that of the storage. Without a count: the lab that is up."""

    def __init__(self, count: int | None = None) -> None:
        self._facts = FOLDER / "lab.json"
        self.count = json.loads(self._facts.read_text())["count"] if count is None else count
        self.user, *self.hosts = (Host(f"{PREFIX}{at}", 10 + at) for at in range(self.count + 1))
        self.s3 = Host(f"{PREFIX}-s3", 253)

    @property
    def all(self) -> list[Host]:
        return [self.s3, self.user, *self.hosts]

    @cached_property
    def secret(self) -> str:
        """The storage's key: whoever finds it somewhere knows where it came from."""
        return str(json.loads(self._facts.read_text())["secret"])

    @property
    def environment(self) -> dict[str, str]:
        """What reaches the storage, from this machine and from every host."""
        endpoint = f"http://{self.s3.address}:{S3_PORT}"
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "S3_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": "lab",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def up(self) -> Lab:
        """Everything, or nothing: what fails half-way is taken down again."""
        assert not left(), f"a lab is up, or was not ended: python -m tests.cluster.lab down; {', '.join(left())}"
        try:
            FOLDER.mkdir(mode=0o755)
            self._facts.write_text(json.dumps({"count": self.count, "secret": f"planted-{secrets.token_hex(16)}"}))
            for key in ("host_key", "key"):
                call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(FOLDER / key))
            (FOLDER / "sshd_config").write_text(SSHD)
            call("ip", "link", "add", PREFIX, "type", "bridge")
            call("ip", "address", "add", f"{BRIDGE}/24", "dev", PREFIX)
            call("ip", "link", "set", PREFIX, "up")
            for host in self.all:
                self._furnish(host)
                host.on()
            serve = f"{sys.executable} -m tests.s3 --address {self.s3.address} --port {S3_PORT} --bucket {BUCKET}"
            self.s3.start(f"cd {ROOT}; exec {serve}", self.s3.folder / "log")
            until(lambda: answers(self.s3.address, S3_PORT), f"S3: {self.s3.folder / 'log'}")
        except BaseException:
            down()
            raise
        return self

    def _furnish(self, host: Host) -> None:
        """Its disk: a home, the names of all hosts, and what it does when it is switched on."""
        (host.home / ".ssh").mkdir(mode=0o700, parents=True)
        # In IPv6's dress too: gloo and sshd ask for it, and nobody is there to say that it has no name.
        names = "".join(f"{dress}{other.address} {other.name}\n" for other in self.all for dress in ("", "::ffff:"))
        (host.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        accounts = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        homes = [[*line[:5], str(host.home), line[6]] if line[2] == "0" else line for line in accounts]
        (host.folder / "passwd").write_text("".join(":".join(line) + "\n" for line in homes))
        (host.folder / "init").write_text(_init(host))
        (host.home / ".bashrc").write_text(self._bashrc(host))
        if host is self.user:  # with a key to the others, and a checkout
            shutil.copy(FOLDER / "key", host.home / ".ssh" / "id_ed25519")
            leave_out = [f"--exclude={name}" for name in NOT_COPIED]
            call("rsync", "-a", *leave_out, f"{ROOT}/", str(host.home / "minibert"))

    def _bashrc(self, host: Host) -> str:
        if host is self.user:
            own = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "RAY_AUTH_MODE": "token"}
        else:  # one worker a host, whatever this machine's cores; the environment that is there need not be installed
            own = {"RAY_OVERRIDE_RESOURCES": '{"CPU":1}', "MINIBERT_VENV": sys.prefix}
        return "".join(f"export {name}='{value}'\n" for name, value in {**self.environment, **own}.items())


def _init(host: Host) -> str:
    """A host's process 1. What it must see of this machine's /tmp comes back over its own."""
    seen = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    kept = {str(path): f"{host.folder}/kept{at}" for at, path in enumerate(seen) if path.is_relative_to("/tmp")}
    away = "".join(f"mkdir -p {place}; mount --bind {path} {place}\n" for path, place in kept.items())
    back = "".join(f"mkdir -p {path}; mount --bind {place} {path}\n" for path, place in kept.items())
    return f"""\
set -e
mount --make-rprivate /
hostname {host.name}
for file in hosts passwd; do mount --bind {host.folder}/$file /etc/$file; done
{away}for place in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 {PREFIX} $place; done
{back}mkdir -m 755 /run/sshd
echo $RANDOM > /proc/sys/kernel/ns_last_pid # a process id tells one start of this host from another
$(command -v sshd) -D -e -f {FOLDER}/sshd_config &
{sys.executable} {Path(__file__).with_name("metadata.py")} {METADATA} {host.notice} &
set +e
while :; do sleep infinity & wait $!; done
"""


def down() -> None:
    """Takes away whatever there is of a lab; nothing, where there is none."""
    for name in namespaces():
        remove_namespace(name)
    for link in _links():
        call("ip", "link", "del", link, check=False)  # a cable goes with its namespace, a moment later
    until(lambda: not _links(), "the bridge and the cables are gone")
    shutil.rmtree(FOLDER, ignore_errors=True)
    assert not left(), f"still there: {', '.join(left())}"


def left() -> list[str]:
    """What there is of a lab: processes, namespaces, links, mounts, files."""
    mine = str(os.getpid())
    commands = {path.parent.name: _content(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = [f"process {pid}" for pid, command in commands.items() if f"{FOLDER}/" in command and pid != mine]
    found += [f"namespace {name}" for name in namespaces()]
    found += [f"link {name}" for name in _links()]
    found += [f"mount {line.split()[1]}" for line in _content(Path("/proc/mounts")).splitlines() if PREFIX in line]
    return found + ([f"files {FOLDER}"] if FOLDER.exists() else [])


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # a process that has ended meanwhile
        return ""


def _links() -> list[str]:
    shown = json.loads(call("ip", "-json", "link", "show").stdout)
    return [link["ifname"] for link in shown if link.get("ifname", "").startswith(PREFIX)]


def _up(count: str) -> None:
    print("\n".join(f"{host.address}\t{host.name}" for host in Lab(int(count)).up().all))


def _exec(name: str, *command: str) -> None:
    os.execvpe("nsenter", _host(name).command(" ".join(command)), {"PATH": PATH})


def _host(name: str) -> Host:
    return next(host for host in Lab().all if host.name == name)


def main() -> None:
    commands: dict[str, Callable[..., None]] = {
        "up": _up,
        "down": down,
        "exec": _exec,
        "on": lambda name: _host(name).on(),
        "off": lambda name: _host(name).off(),
        "unplug": lambda name: _host(name).unplug(),
        "plug": lambda name: _host(name).plug(),
        "limit": lambda name, rate: _host(name).limit(rate),
    }
    reason = missing()
    if reason or len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(reason or __doc__)
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except AssertionError as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    main()
