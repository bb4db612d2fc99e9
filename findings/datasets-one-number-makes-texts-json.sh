#!/usr/bin/env bash
# One number among the texts of a JSON lines file makes datasets read the whole column as the extension type
# arrow.json. The texts look the same in datasets, but a text that happens to be JSON becomes a value ("007" is 7,
# "null" is None), and to_parquet stores every text with JSON's quotes around it, so that other readers of that file
# get '"a fine film"'. What this project does: multitask/data/arrow_files.py parses each value.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HUB_OFFLINE=1 HF_HOME="$work/home"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
venv/bin/python - <<'PY'
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

print("datasets", datasets.__version__, "pyarrow", pa.__version__)
texts = ["a fine film", "007", "null", 300]
with open("films.jsonl", "w") as file:
    file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
rows = datasets.load_dataset("json", data_files="films.jsonl", split="train", cache_dir="cache")
rows.to_parquet("films.parquet")
read = list(rows["text"])
stored = pq.read_table("films.parquet")["text"]
plain = stored.combine_chunks().storage.to_pylist() if isinstance(stored.type, pa.BaseExtensionType) else stored.to_pylist()
print("in the file:", texts)
print("datasets reads:", read, "of", rows.features["text"])
print("to_parquet stores:", plain, "of", stored.type)
raise SystemExit(not (read[0] == "a fine film" and read[1] != "007" and plain[0] == '"a fine film"'))
PY
