#!/bin/sh
# torch's scaled_dot_product_attention is used so that no (tokens x tokens) matrix is kept for the backward pass. On a CPU
# that ends with dropout_p above 0: the call falls back to separate steps, without a word, and keeps three such
# matrices a head. 4 texts of 512 tokens with 12 heads of 32 numbers: 13 MB without dropout, 160 MB with it.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: multitask/model/attention.py computes them again (RECOMPUTED).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.0 || exit 2
venv/bin/python - <<'PYTHON'
import sys

import torch
import torch.nn.functional as F

TEXTS, HEADS, TOKENS, WIDTH = 4, 12, 512, 32
MATRIX = TEXTS * HEADS * TOKENS * TOKENS * 4
print(f"torch {torch.__version__}, {sys.version.split()[0]}; one matrix of weights in float32: {MATRIX / 1e6:.0f} MB")


def kept(dropout: float) -> int:
    """Bytes that autograd keeps for the backward pass of one call, each storage once."""
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    states = [torch.randn(TEXTS, HEADS, TOKENS, WIDTH, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = F.scaled_dot_product_attention(*states, dropout_p=dropout)
    assert out.shape == states[0].shape
    return sum(storages.values())


without, with_dropout = kept(0.0), kept(0.1)
print(f"kept without dropout: {without / 1e6:.0f} MB; with dropout .1: {with_dropout / 1e6:.0f} MB")
if without < MATRIX and with_dropout >= 2 * MATRIX:
    print("as described: with dropout the weights are kept")
else:
    sys.exit("changed: dropout no longer makes the call keep its weights")
PYTHON
