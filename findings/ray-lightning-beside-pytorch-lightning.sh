#!/bin/bash
# ray.train.lightning takes its strategies from the package `lightning` as soon as that can be imported. Installed beside
# `pytorch_lightning`, by any other tool, it breaks a program that uses the latter: its Trainer refuses Ray's strategy,
# which is of a class with the same name from the other package.
# Exits 0 while it is so, 1 once the Trainer takes the strategy.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
pip="venv/bin/python -m pip install -q --disable-pip-version-check"
$pip torch==2.13.0
$pip "ray[train]==2.60.0" pytorch-lightning==2.6.6
cat > try.py <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version

import pytorch_lightning
import pytorch_lightning.utilities.exceptions
from ray.train.lightning import RayDDPStrategy

for name in ("ray", "torch", "pytorch-lightning", "lightning"):
    try:
        print(name, version(name), end="; ")
    except PackageNotFoundError:
        print(name, "not installed", end="; ")
print()


class Strategy(RayDDPStrategy):
    root_device = "cpu"  # outside of a worker Ray has none


print("RayDDPStrategy is a", RayDDPStrategy.__mro__[1].__module__)
try:
    pytorch_lightning.Trainer(
        accelerator="cpu", devices=1, strategy=Strategy(), logger=False, enable_checkpointing=False
    )
except (ValueError, TypeError, pytorch_lightning.utilities.exceptions.MisconfigurationException) as error:
    print(f"refused: {type(error).__name__}: {str(error)[:200]}")
    sys.exit(10)
print("taken")
PY
status() { venv/bin/python try.py >&2 && echo 0 || echo $?; }
alone=$(status)
$pip --no-deps lightning==2.6.6
beside=$(status)
echo "alone: $alone; beside lightning: $beside (10: the Trainer refuses Ray's strategy)"
[ "$alone" = 0 ] && [ "$beside" = 10 ]
