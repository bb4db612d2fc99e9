"""Where a stage's TensorBoard events lie: TensorBoard names a run by its folder below --logdir."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from multitask.storage.storage import Storage

SEED = " seed="
CONFLICT = "conflict"  # the tags conflict/<task>-<task>/<part of the encoder>


@dataclass(frozen=True)
class Point:
    """What was told under a tag at a step."""

    value: float | None
    """A scalar; None of texts, curves and whatever else TensorBoard shows."""
    time: float
    """When it was told, seconds since 1970."""


Points = Mapping[tuple[str, int], Point]  # (tag, step) -> what TensorBoard shows there


def events_folder(trainer: Storage, label: str, seed: int) -> Storage:
    """The folder of a stage's events, in its trainer's, so that TensorBoard's run is TRAINER/sts lr=0.001 seed=11711.
    label: the stage's name, or a trial's, `sts@lr=0.001`.

    Events that lie in the trainer's own folder, as older builds wrote them, go on there: else one run would become two.
    """
    if _among(trainer.list()):
        return trainer
    return trainer.at(f"{label.replace('@', ' ')}{SEED}{seed}")


def event_files(trainer: Storage) -> list[str]:
    """The paths of a trainer's event files, in its folder."""
    names = trainer.list()
    return _among([*names, *(f"{name}/{file}" for name in names if SEED in name for file in trainer.list(name))])


def _among(names: list[str]) -> list[str]:
    return [name for name in names if ".tfevents." in name]


def shown_after(content: bytes, before: Points) -> Points:
    """What TensorBoard shows after one more event file, of that content: a mark in it hides what lies before it from
    the mark's step on."""
    from tensorboard.backend.event_processing.event_file_loader import (
        LegacyEventFileLoader,
    )

    shown = dict(before)
    with tempfile.NamedTemporaryFile(prefix="minibert-events-") as file:
        file.write(content)
        file.flush()
        for event in LegacyEventFileLoader(file.name).Load():
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                shown = {(tag, step): point for (tag, step), point in shown.items() if step < event.step}
            for value in event.summary.value:
                scalar = value.simple_value if value.HasField("simple_value") else None
                shown[value.tag, event.step] = Point(scalar, event.wall_time)
    return shown


def shown_points(trainer: Storage) -> Points:
    """All that TensorBoard shows of a trainer."""
    shown: Points = {}
    for name in sorted(event_files(trainer)):
        shown = shown_after(trainer.read_bytes(name), shown)
    return shown
