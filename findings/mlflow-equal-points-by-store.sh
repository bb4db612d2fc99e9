#!/bin/sh
# A point of a metric that MLflow is sent twice, equal in key, value, step and time, stands once in a database (SQLite
# here) and twice in a folder of files: the one has all four in its primary key, the other appends a line. Sent with another
# time, as a resumed run that logs a step again does, it stands twice in both. So a run that goes on after a kill has doubled
# points, and a chart that zigzags, unless whoever sends them asks for what is there first.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: ray_jobs/trackers/mlflow.py asks for each tag's history before it sends.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check mlflow-skinny==3.17.2 SQLAlchemy==2.1.9 alembic==1.20.1 || exit 2
MLFLOW_ALLOW_FILE_STORE=true venv/bin/python - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

from mlflow import MlflowClient
from mlflow.entities import Metric

logging.disable(logging.WARNING)


def kept(uri):
    """How many points there are of two sent at an equal time, and of two sent at another."""
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("training")).info.run_id
    for name, times in (("equal", (1000, 1000)), ("later", (1000, 2000))):
        for time in times:
            client.log_batch(run, metrics=[Metric(name, 0.5, time, 10)])
    return tuple(len(client.get_metric_history(run, name)) for name in ("equal", "later"))


print(f"mlflow-skinny {version('mlflow-skinny')}")
database, folder = kept("sqlite:///mlflow.db"), kept("files")
print(f"points kept of two with equal times, with other times: database {database}, folder {folder}")
if (database, folder) == ((1, 2), (2, 2)):
    print("as described: it depends on the store")
else:
    sys.exit("changed: the stores keep other numbers of points")
PYTHON
