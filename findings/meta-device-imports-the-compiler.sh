#!/bin/sh
# To make a module on the device `meta`, which has shapes and no content, is what large models are loaded by: nothing is
# computed. But torch initialises the weights all the same, there by decompositions in Python, and calling the first of them
# imports torch._dynamo and sympy: some 800 modules, a second and more of a start that had meant to save one.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: multitask/model/weights.py, shapes_alone, leaves torch.nn.init out.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.0 || exit 2
cat > made.py <<'PYTHON'
import sys
import time

import torch

before, began = set(sys.modules), time.perf_counter()
with torch.device(sys.argv[1]):
    torch.nn.Embedding(30522, 384)
seconds = time.perf_counter() - began
new = set(sys.modules) - before
compiler = "torch._dynamo" in new and "sympy" in new
print(f"torch {torch.__version__}, on {sys.argv[1]}: {seconds:.2f} s, {len(new)} more modules, the compiler among them: {compiler}")
sys.exit(int(compiler))
PYTHON
venv/bin/python made.py cpu || { echo "changed: a module on the CPU imports the compiler too"; exit 1; }
if venv/bin/python made.py meta; then
    echo "changed: a module on meta no longer imports the compiler"
    exit 1
fi
echo "as described: on meta the weights are initialised, and the compiler is imported for it"
