#!/bin/bash
# safetensors 0.8.0: save_file makes a file that its owner alone can read (mode 0600), whatever the umask says, and also
# where one of mode 0644 lay before; it writes a temporary file beside it and renames that. 0.7.0 wrote in place and kept
# the umask. So a model's folder on a shared disk has a config.json that colleagues can read and weights that they cannot,
# and a hard link to the old weights (a snapshot, a deduplicated cache) keeps the old content.
# What this project does: multitask/storage/sealed.py, save_tensors.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
umask 022
python3 -m venv venv || exit 2
found=""
for version in 0.7.0 0.8.0; do
  venv/bin/pip install --quiet numpy==2.4.0 "safetensors==$version" || exit 2
  rm -f model.safetensors link
  found+=$(venv/bin/python - <<'P'
import os
import sys

import numpy as np
import safetensors
from safetensors.numpy import save_file

open("model.safetensors", "wb").close()  # mode 0644 by the umask
os.link("model.safetensors", "link")
save_file({"weight": np.ones(3, np.float32)}, "model.safetensors")
mode = oct(os.stat("model.safetensors").st_mode & 0o777)
linked = os.path.samefile("model.safetensors", "link")
print(f"python {sys.version.split()[0]}, safetensors {safetensors.__version__}: mode {mode}, still the same file: {linked};")
P
)
done
echo "$found" | tr ';' '\n'
[[ $found == *"0.7.0: mode 0o644, still the same file: True"*"0.8.0: mode 0o600, still the same file: False"* ]]
