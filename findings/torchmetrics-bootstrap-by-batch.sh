#!/bin/sh
# torchmetrics' BootStrapper with sampling_strategy="multinomial" draws anew within each batch that it is given, never
# over all rows: the spread it says of one and the same set of predictions depends on how they were batched. Rows given
# one at a time have none at all: 0 for an accuracy of .75 on 400 rows, whose standard error is .0217.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.0 || exit 2
venv/bin/python - <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy
from torchmetrics.wrappers import BootStrapper

ROWS = 400
labels = torch.ones(ROWS, dtype=torch.int64)
predictions = (torch.arange(ROWS) % 4 > 0).long()  # three in four are right
error = (0.75 * 0.25 / ROWS) ** 0.5
print(f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}, {sys.version.split()[0]}")
print(f"the binomial's standard error: {error:.4f}")


def spread(strategy: str, size: int) -> float:
    """The standard deviation over 200 resamples of the same predictions, given in batches of that size."""
    torch.manual_seed(0)
    metric = BootStrapper(BinaryAccuracy(), num_bootstraps=200, sampling_strategy=strategy)
    for start in range(0, ROWS, size):
        metric.update(predictions[start : start + size], labels[start : start + size])
    return float(metric.compute()["std"])


found = {(strategy, size): spread(strategy, size) for strategy in ("multinomial", "poisson") for size in (400, 2, 1)}
for (strategy, size), value in found.items():
    print(f"{strategy:12} batches of {size:3}: {value:.4f}")
whole = abs(found["multinomial", 400] / error - 1) < 0.2
poisson = all(abs(found["poisson", size] / error - 1) < 0.2 for size in (400, 2, 1))
alone = found["multinomial", 1] == 0.0
pairs = found["multinomial", 2] < 0.9 * error  # 100 pairs of one right, one wrong: sqrt(50) / 400 = .0177
if whole and poisson and alone and pairs:
    print("as described: the batches decide what multinomial resampling says")
else:
    sys.exit("changed: multinomial resampling no longer depends on the batches as described")
PYTHON
