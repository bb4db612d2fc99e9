#!/bin/sh
# A run of Weights & Biases that is begun again offline, under its id and with resume="allow", knows nothing of its first
# part: its step is 0, a step that was logged before is taken again without a word, and lies in a second folder of the run.
# Online, `starting_step` says where it goes on. A training that counts on that and is resumed on a machine without
# network sends steps twice.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: ray_jobs/trackers/wandb.py keeps a ledger of what was sent.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check wandb==0.31.0 || exit 2
WANDB_MODE=offline WANDB_SILENT=true venv/bin/python - <<'PYTHON'
import sys
from pathlib import Path

import wandb

seen = []
for part in range(2):
    run = wandb.init(project="training", id="stage1", resume="allow")
    seen.append((run.starting_step, run.step))
    run.log({"loss": 0.5}, step=10)
    run.finish()
folders = [path for path in Path("wandb").glob("offline-run-*") if any(path.glob("run-stage1.wandb"))]
print(f"wandb {wandb.__version__}")
print(f"(starting_step, step) of the first and the second part: {seen}; folders of the run: {len(folders)}")
if seen == [(0, 0), (0, 0)] and len(folders) == 2:
    print("as described: the second part does not know of the first one's step 10")
else:
    sys.exit("changed: an offline run that goes on knows its steps")
PYTHON
