#!/bin/bash
# TensorBoard's two readers of one run differ on what a restart hides. torch's SummaryWriter(purge_step=N) writes a START
# mark, from whose step on earlier points are hidden. The class that scripts use (event_accumulator) hides them at the first
# mark; the one behind `tensorboard --load_fast=false` and s3:// (plugin_event_accumulator) takes a run's first mark for
# its beginning, so that the first resume of a run whose first attempt had none shows points twice.
# Exits 0 while it is so, 1 once both show the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check tensorboard==2.21.0 "setuptools<81"
venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def attempt(folder, steps, start, suffix):
    """One process's file, as torch writes it: a START mark where `start` is given, then a scalar a step."""
    writer = EventFileWriter(folder, filename_suffix=suffix)
    if start is not None:
        writer.add_event(Event(step=start, file_version="brain.Event:2"))
        writer.add_event(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
    for step in steps:
        value = Summary.Value(tag="loss", simple_value=float(step))
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()


def shown(folder):
    scripts = event_accumulator.EventAccumulator(folder)
    scripts.Reload()
    pages = plugin_event_accumulator.EventAccumulator(folder)
    pages.Reload()
    return [point.step for point in scripts.Scalars("loss")], [point.step for point in pages.Tensors("loss")]


print("python", sys.version.split()[0], "tensorboard", version("tensorboard"))
found = {}
for name, first in (("first attempt without a mark", None), ("first attempt with a mark at 0", 0)):
    folder = name.replace(" ", "-")
    attempt(folder, (10, 20, 30), first, ".1")
    attempt(folder, (20, 30, 40), 20, ".2")  # killed after 30, resumed from a checkpoint before 20
    found[name] = shown(folder)
    print(f"{name}: event_accumulator {found[name][0]}, plugin_event_accumulator {found[name][1]}")
once, twice = [10, 20, 30, 40], [10, 20, 30, 20, 30, 40]
expected = {"first attempt without a mark": (once, twice), "first attempt with a mark at 0": (once, once)}
sys.exit(0 if found == expected else 1)
PY
