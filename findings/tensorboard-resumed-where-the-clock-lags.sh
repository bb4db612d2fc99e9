#!/usr/bin/env bash
# A run that is killed and resumed on a machine whose clock lags a minute: TensorBoard reads a run's event files in the
# order of their names, and a name begins with its writer's clock. The resumed part is read first; the START mark of the
# first part, read after it, then hides all of it. Nothing is said but a line in TensorBoard's log that calls it a
# restart. Where the clocks agree, the same events give the whole curve.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tensorboard==2.21.0
venv/bin/python -W ignore - <<'PY'
import logging
import time
from pathlib import Path
from unittest.mock import patch

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

logging.getLogger("tensorboard").setLevel(logging.ERROR)
now = time.time()


def attempt(folder: str, start: int, end: int, clock: float) -> None:
    """What one attempt writes: a START mark at its first step, as restarted jobs should, then a loss a step."""
    with patch("time.time", lambda: clock):
        writer = EventFileWriter(folder)
        writer.add_event(Event(wall_time=clock, step=start, session_log=SessionLog(status=SessionLog.START)))
        for step in range(start, end):
            value = Summary.Value(tag="loss", simple_value=1 / (1 + step))
            writer.add_event(Event(wall_time=clock + step, step=step, summary=Summary(value=[value])))
        writer.close()


print("tensorboard", tensorboard.__version__)
seen = {}
for name, lag in {"clocks agree": 0, "the second lags a minute": 60}.items():
    folder = str(Path(name.replace(" ", "-")))
    attempt(folder, 0, 6, now)  # killed after step 5; the last checkpoint is of step 3
    attempt(folder, 3, 10, now + 20 - lag)
    found = EventAccumulator(folder)
    found.Reload()
    seen[name] = [point.step for point in found.Scalars("loss")]
    print(f"{name}: steps shown", seen[name])
raise SystemExit(seen != {"clocks agree": list(range(10)), "the second lags a minute": list(range(6))})
PY
