"""`minibert doctor`: what this machine and a storage are fit for, one fact a line, each with what to do.

Nothing here waits for long: what asks others is given up after a while.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray_jobs.doctor.diagnosis import Diagnosis
from ray_jobs.doctor.machine import check_machine
from ray_jobs.doctor.network import check_hub, check_ray
from ray_jobs.doctor.software import check_encoder, check_extras, check_python, check_versions
from ray_jobs.doctor.storage_check import check_storage

__all__ = ["Diagnosis", "examine"]


def examine(storage: str | None) -> Iterator[Diagnosis]:
    """Each diagnosis as soon as it is there. storage: the URI of one to be looked at."""
    yield check_python()
    yield from check_versions()
    yield from check_extras()
    yield from check_machine()
    yield check_encoder()
    if storage is None:
        yield Diagnosis("note", "storage", "not looked at; give --storage URI")
    else:
        yield from check_storage(storage)
    yield check_ray()
    yield check_hub()
