"""The files of configs/, which are shipped with the package. Light: the shell asks for their names at every Tab."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def packaged(path: str, folder: str) -> Path | None:
    """The file of configs/ that is meant by its path in this repository, or by its name in a folder of configs/."""
    name = path.removeprefix("./").removeprefix("configs/")
    choices = [name, f"{name}.yaml", f"{folder}/{name}", f"{folder}/{name}.yaml"]
    return next((_configs() / choice for choice in choices if (_configs() / choice).is_file()), None)


def packaged_recipes() -> list[str]:
    """The names of packaged recipes that `minibert train` takes: demo, bertaar/results, ...; then those with sweeps,
    sweeps/..."""
    return [*_names("recipes", _configs() / "recipes"), *_names("sweeps", _configs())]


def packaged_maps() -> list[str]:
    """The names of packaged data maps that --data takes."""
    return _names("data", _configs() / "data")


def _names(folder: str, root: Path) -> list[str]:
    return sorted(file.relative_to(root).with_suffix("").as_posix() for file in (_configs() / folder).rglob("*.yaml"))


def _configs() -> Path:
    return Path(str(resources.files("configs")))
