#!/bin/bash
# `import pytorch_lightning` imports transformers, scipy.signal and matplotlib where they are installed, which nothing in
# Lightning uses: torchmetrics, of which it takes two base classes, imports them for its scores of texts, sounds and
# plots. Who has them beside Lightning waits about twice as long for each process that trains.
# Exits 0 while it is so, 1 once they are left alone. What this project does: ray_jobs/importing.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
pip="venv/bin/python -m pip install -q --disable-pip-version-check"
$pip torch==2.13.0
$pip pytorch-lightning==2.6.6 torchmetrics==1.9.0
cat > try.py <<'PY'
import sys
import time
from importlib.metadata import version

began = time.process_time()
import pytorch_lightning

took = time.process_time() - began
found = [name for name in ("transformers", "scipy.signal", "matplotlib.pyplot") if name in sys.modules]
print(f"pytorch-lightning {pytorch_lightning.__version__}, torchmetrics {version('torchmetrics')}:", end=" ")
print(f"{took:.1f} s of processor time; imported too: {', '.join(found) or 'none of them'}")
sys.exit(10 * len(found))
PY
status() { venv/bin/python try.py >&2 && echo 0 || echo $?; }
status > /dev/null # compiles what is imported
alone=$(status)
$pip transformers==5.23.0 scipy==1.17.1 matplotlib==3.11.2
status > /dev/null
beside=$(status)
echo "alone: $alone; beside transformers, scipy and matplotlib: $beside (10 for each that is imported)"
[ "$alone" = 0 ] && [ "$beside" = 30 ]
