#!/usr/bin/env bash
# A Parquet file that pyarrow writes without complaint and cannot read again: a categorical column in chunks of at
# most 128 values each (int8 indices) whose chunks have more values together. Every reader on top of it fails likewise
# (pandas, datasets). What this project does: multitask/data/arrow_files.py reads the column as the strings it stores.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
venv/bin/python - <<'PY'
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

print("pyarrow", pa.__version__, "pandas", pd.__version__)
# Two months of a product's reviews, each with its own hundred categories; pandas' categories have int8 codes up to
# 128 values.
months = [pd.DataFrame({"category": pd.Categorical([f"{month}-{n}" for n in range(100)])}) for month in ("may", "june")]
table = pa.concat_tables([pa.Table.from_pandas(month) for month in months])
pq.write_table(table, "reviews.parquet")
print("written:", table.num_rows, "rows of", table.schema.field("category").type)
seen = {}
for name, read in {"pyarrow": pq.read_table, "pandas": pd.read_parquet}.items():
    try:
        seen[name] = f"{len(read('reviews.parquet'))} rows"
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {error}"
    print("read by", name, "->", seen[name])
raise SystemExit(any("not in range" not in said for said in seen.values()))
PY
