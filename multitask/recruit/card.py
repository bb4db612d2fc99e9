"""The model card of a recruiter bundle, in Markdown (Mitchell et al., 2019): what it is, what it is worth, what it is
not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multitask import markdown

NOT_FOR = (
    "Ranking people, or deciding about them unattended. It reads texts; a person decides, and says why "
    "(bertaar.txt, 10).",
    "Finding out who wrote a text. Encodings carry style as well as content; to ask them for the author of a whistle "
    "blower's letter, say, is misuse (bertaar.txt, 10).",
    "Other languages than English, other times and places than its postings': what was usual there is what it learned.",
)
NO_AUDIT = "Not audited. `minibert recruit audit --output FILE` makes what belongs here."
ABOUT = {
    "trainer": "trainer name",
    "recipe": "recipe",
    "stage": "stage",
    "encoder": "encoder",
    "fingerprint": "fingerprint",
    "steps": "steps",
    "max_length": "tokens a text, at most",
    "temperature": "temperature of the calibration",
}


def recruiter_card(
    about: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    audit: Sequence[Mapping[str, Any]] | None,
) -> str:
    """The whole model card as Markdown.

    about: the bundle's. data: {task, split, rows, sha256} of each file it was trained or measured on. measured:
    {metric, value, interval, rows}; value null with `why`. audit: its findings {what, group, value, interval, bound,
    verdict}, None if it was not audited.
    """
    notes = [f"{task}: {note}" for task, note in about.get("notes", {}).items() if task in about["tasks"]]
    parts = [
        f"# {about.get('recipe', 'bundle')}/{about.get('stage', 'encoder')}",
        markdown.table(("about", ""), [(words, about[key]) for key, words in ABOUT.items() if key in about]),
        "## Data",
        markdown.table(
            ("task", "split", "rows", "sha256"),
            [[row[key] for key in ("task", "split", "rows", "sha256")] for row in data],
        ),
        *([f"Labels. {note}" for note in notes] or ["Labels: as the files say; nothing is noted about them."]),
        "## What it is worth",
        markdown.table(
            ("metric", "value", "95 % interval", "rows"),
            [(row["metric"], markdown.number(row), markdown.interval(row), row.get("rows", "")) for row in measured],
        ),
        "## Audit",
        _audit(audit),
        "## Not for",
        "\n".join(f"- {line}" for line in NOT_FOR),
    ]
    return "\n\n".join(parts) + "\n"


def _audit(findings: Sequence[Mapping[str, Any]] | None) -> str:
    if findings is None:
        return NO_AUDIT
    keys = ("what", "group", "bound", "verdict")
    rows = [
        (row["what"], row["group"], markdown.number(row), markdown.interval(row), row["bound"], row["verdict"])
        for row in findings
    ]
    broken = sum(row["verdict"] == "broken" for row in findings)
    said = f"{broken} of {len(findings)} findings break their bound." if broken else "No bound was broken."
    return (
        markdown.table((*keys[:2], "value", "95 % interval", *keys[2:]), rows)
        + f"\n\n{said} Names stand for how readers take them, not for people."
    )
