"""The installed libraries against what is declared and tested, the extras, and the encoder that needs no download."""

from __future__ import annotations

import importlib.util
import platform
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from multitask.extras import EXTRAS, PROJECT
from ray_jobs.doctor.diagnosis import Diagnosis

CHECKOUT = Path(__file__).parents[2]


def check_python() -> Diagnosis:
    return Diagnosis("ok", "python", f"{platform.python_version()} on {platform.platform()}")


def check_versions() -> Iterator[Diagnosis]:
    """Compares the direct dependencies with what is declared and, in a checkout, with the versions that are tested."""
    tested, sound = _tested(), []
    for need in _declared(""):
        pin = tested.get(_normal(need.name))
        advice = f"pip install -c constraints.txt '{need.name}{need.specifier}'"
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Diagnosis("problem", need.name, f"not installed: {advice}")
            continue
        if not need.specifier.contains(found, prereleases=True):
            yield Diagnosis("problem", need.name, f"{found}, needed is {need.specifier}: {advice}")
        elif pin and found.partition("+")[0] != pin:
            yield Diagnosis("note", need.name, f"{found}; tested with {pin}")
        else:
            sound.append(f"{need.name} {found}")
    yield Diagnosis("ok", "libraries", f"{', '.join(sound)}{'; as tested' if tested else ''}")


def check_extras() -> Iterator[Diagnosis]:
    """Whether the extras of commands are installed; `check_encoder` looks for the encoder's."""
    for extra in [extra for extra in EXTRAS.values() if extra.command]:
        if missing := [name for need in _declared(extra.name) for name in _missing(need)]:
            what = f"for {extra.command}, {', '.join(missing)} not installed: pip install {extra.requirement}"
            yield Diagnosis("note", extra.name, what)
        else:
            yield Diagnosis("ok", extra.name, f"all that {extra.command} needs is installed")


def _declared(extra: str) -> list[Requirement]:
    """The requirements of an extra beside the core's; of the core itself for ""."""
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        declared = tomllib.loads(project.read_text())["project"]
        lines = declared["optional-dependencies"][extra] if extra else declared["dependencies"]
        return [need for need in map(Requirement, lines) if need.name != PROJECT]
    return list(_asked_for(PROJECT, extra))


def _asked_for(package: str, extra: str) -> Iterator[Requirement]:
    """The requirements of an extra, by the word of the installed package; of its core for ""."""
    for need in map(Requirement, requires(package) or []):
        core, wanted = (need.marker is None or need.marker.evaluate({"extra": name}) for name in ("", extra))
        if need.name != package and wanted and core != bool(extra):
            yield need


def _missing(need: Requirement) -> list[str]:
    """The packages of a requirement, and of its extras, that are not installed."""
    try:
        version(need.name)
    except PackageNotFoundError:
        return [need.name]
    return [name for extra in need.extras for inner in _asked_for(need.name, extra) for name in _missing(inner)]


def _tested() -> dict[str, str]:
    pins = CHECKOUT / "constraints.txt"
    lines = pins.read_text().splitlines() if pins.is_file() else []
    return {_normal(name): pin for name, equals, pin in (line.partition("==") for line in lines) if equals}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_encoder() -> Diagnosis:
    """Whether the encoder that needs no download is installed; it is found, not imported."""
    from multitask.model.sources import MINILM_PACKAGE

    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None:
        how = EXTRAS["offline"].for_encoders
        return Diagnosis("note", "encoder", f"minilm-l6 is not installed: {how} (`tiny` and directories need nothing)")
    return Diagnosis("ok", "encoder", f"minilm-l6 in {(package.submodule_search_locations or ['?'])[0]}")
