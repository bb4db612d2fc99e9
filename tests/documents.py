"""What a command prints with --json, held to its schema; postings for the recruiter's commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from typer.testing import CliRunner

from ray_jobs.cli import app
from ray_jobs.cli.documents import DOCUMENTS, schema_of
from tests.unit.test_recruit_postings import corpus


def document(line: str, status: int = 0) -> Any:
    """What the line prints with --json, which is checked, as is the exit status."""
    words = line.split()
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == status, done.output
    found = json.loads(done.stdout)
    command = max((name for name in DOCUMENTS if words[: len(name.split())] == name.split()), key=len)
    jsonschema.validate(found, schema_of(command))
    return found


def postings_file(path: Path) -> None:
    """Writes postings that fill every field."""
    rows = [
        {"id": p.id, "Title": p.title, "JobDescription": p.description, "JobRequirment": p.requirements,
         "RequiredQual": p.qualifications}
        for p in corpus().postings
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
