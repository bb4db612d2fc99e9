"""Tables and numbers in Markdown, for model cards and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def number(row: Mapping[str, Any]) -> str:
    """A measured {value, why} as text: three digits, or why there is no value."""
    return f"undefined: {row.get('why', '')}" if row["value"] is None else f"{row['value']:.3f}"


def interval(row: Mapping[str, Any]) -> str:
    return " .. ".join(f"{bound:.3f}" for bound in row["interval"]) if row.get("interval") else ""
