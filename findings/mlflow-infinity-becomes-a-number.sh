#!/bin/sh
# An infinite metric, a perplexity that has overflown say, is kept by MLflow's database (SQLite here) as the largest finite
# double, 1.797e308, without a word; the folder of files gives infinity back. So a chart or a search over runs takes a training
# that has blown up for one with a value, and `value < inf` finds it. NaN is kept by both.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: metrics that are no finite numbers are null, with a reason, and are not sent
# (multitask/measure/metrics.py).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check mlflow-skinny==3.17.2 SQLAlchemy==2.1.9 alembic==1.20.1 || exit 2
MLFLOW_ALLOW_FILE_STORE=true venv/bin/python - <<'PYTHON'
import logging
import math
import sys
from importlib.metadata import version

from mlflow import MlflowClient
from mlflow.entities import Metric

logging.disable(logging.WARNING)


def kept(uri):
    """What comes back of infinity and of NaN."""
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("training")).info.run_id
    client.log_batch(run, metrics=[Metric("high", math.inf, 1000, 10), Metric("none", math.nan, 1000, 10)])
    return tuple(client.get_metric_history(run, name)[0].value for name in ("high", "none"))


print(f"mlflow-skinny {version('mlflow-skinny')}")
database, folder = kept("sqlite:///mlflow.db"), kept("files")
print(f"infinity and NaN come back as: database {database}, folder {folder}")
if database[0] == sys.float_info.max and folder[0] == math.inf and math.isnan(database[1]) and math.isnan(folder[1]):
    print("as described: the database makes a finite number of infinity")
else:
    sys.exit("changed: infinity comes back otherwise")
PYTHON
