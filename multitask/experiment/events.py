"""Where a stage's TensorBoard events lie: TensorBoard names a run by its folder below --logdir."""

from __future__ import annotations

from multitask.storage.storage import Storage

SEED = " seed="
CONFLICT = "conflict"  # the tags conflict/<task>-<task>/<part of the encoder>


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
