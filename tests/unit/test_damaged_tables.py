"""Files of tables, sound and damaged: no row is invented, no label is another row's. `make nightly` reads 10,000."""

from __future__ import annotations

import os
import random
from pathlib import Path

from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.tasks.own import Definition, spec_of
from tests.tables import AS_TEXT, damaged, written

FILES = int(os.environ.get("MINIBERT_TABLES", "300"))
SPAM = spec_of(
    "spam",
    Definition.model_validate({"columns": ["text"], "label": {"column": "label", "words": ["ham", "spam"]}}),
    "spam",
)


def read(folder: Path, ending: str, content: str) -> tuple[list[tuple[str, str]], int]:
    """The rows as (text, label), and how many were left out."""
    file = folder / f"table.{ending}"
    file.write_bytes(content.encode())
    result = read_examples(str(file), SPAM, labelled=True, max_bad_rows=1.0)
    rows = [(example.texts[0], SPAM.label.says(example.label or 0)) for example in result.examples]
    return rows, len(result.quarantined)


def fault(row: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """What is wrong with a row that was read: it has to be a row of the file, or one that was damaged itself."""
    text, label = row
    own = [rows[number] for number in range(len(rows)) if f"<{number}" in text or f"{number}>" in text]
    if len(own) != 1:
        return f"of {len(own)} rows: {text!r}"
    return "" if own[0][1] == label else f"{text!r} is {own[0][1]}, not {label}"


def test_of_sound_and_damaged_files_no_row_is_invented_and_no_label_another_rows(tmp_path: Path) -> None:
    faults, read_rows = [], 0
    for seed in range(FILES):
        draw = random.Random(seed)
        table = written(draw)
        rows, left_out = read(tmp_path, table.ending, table.content)
        faults += [f"{seed}: {row} invented" for row in rows if row not in table.rows]
        if (
            table.quoting is not AS_TEXT or "\t" in table.content
        ):  # a comma's file with a single stray quote loses that row
            faults += [f"{seed}: {table.rows} became {rows}, {left_out} left out"] * (len(rows) != len(table.rows))
        try:
            rows, _ = read(tmp_path, table.ending, damaged(draw, table.content))
        except UserError:  # nothing of it could be read: said, and nothing believed
            continue
        read_rows += len(rows)
        faults += [f"{seed}: {said}" for row in rows if (said := fault(row, table.rows))]
    assert not faults, f"{len(faults)} faults in {FILES} files: {faults[:5]}"
    assert read_rows > 2 * FILES  # a reader that leaves all out would pass, too
