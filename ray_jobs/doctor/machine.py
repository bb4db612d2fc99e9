"""Processors, memory and disks, as training and Ray will find them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ray_jobs.doctor.diagnosis import Diagnosis

GIB = 2**30
ROOM = 2 * GIB  # a checkpoint of a base-sized model lies in the temporary directory while it is uploaded
SHARED = Path("/dev/shm")
SHARED_ROOM = GIB // 2
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
DRIVER = Path("/proc/driver/nvidia/version")


def check_machine() -> Iterator[Diagnosis]:
    yield from check_devices()
    yield check_processor()
    yield check_temporary()
    if SHARED.is_dir():
        yield check_shared_memory()


def check_devices() -> Iterator[Diagnosis]:
    import torch

    driver = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", DRIVER.read_text()) if DRIVER.is_file() else None
    for at in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(at)
        bf16 = "bf16" if facts.major >= 8 else "no bf16: take precision 16-mixed or 32-true"  # from Ampere on
        memory = f"{facts.total_memory / GIB:.1f} GiB"
        cuda = f"CUDA {torch.version.cuda}, driver {driver[1] if driver else '?'}"
        yield Diagnosis("ok", f"cuda:{at}", f"{facts.name}, {memory}, {bf16}, {cuda}")
    if driver and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        fact = f"there is a driver ({driver[1]}), but torch {torch.__version__} is {built} and finds none: pytorch.org"
        yield Diagnosis("problem", "cuda", fact)
    if torch.backends.mps.is_available():
        yield Diagnosis("ok", "mps", "this machine's GPU")


def check_processor() -> Diagnosis:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for file in CGROUP_LIMITS if file.is_file() and (text := file.read_text().strip()).isdigit()]
    limit = min(limits, default=memory)
    contained = f", of which this container may use {limit / GIB:.1f}" if limit < memory else ""
    return Diagnosis("ok", "cpu", f"{cores} cores, {memory / GIB:.1f} GiB of memory{contained}")


def check_temporary() -> Diagnosis:
    temporary = tempfile.gettempdir()
    free = shutil.disk_usage(temporary).free
    fact = f"{temporary} has {free / GIB:.1f} GiB free"
    if free < ROOM:
        return Diagnosis(
            "note", "temporary", f"{fact}: uploads and caches of a remote storage lie there; free some room"
        )
    return Diagnosis("ok", "temporary", fact)


def check_shared_memory() -> Diagnosis:
    free = shutil.disk_usage(SHARED).free
    fact = f"{SHARED} has {free / GIB:.1f} GiB free"
    if free < SHARED_ROOM:
        return Diagnosis("note", "shared", f"{fact}: Ray's object store will be slow on disk; docker run --shm-size=2g")
    return Diagnosis("ok", "shared", fact)
