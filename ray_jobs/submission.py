"""Whether `ray job submit` started this driver: the job's id, and how its user goes on."""

from __future__ import annotations

import json
import os
import shlex
import sys

# Where Ray's job supervisor tells the driver what it submitted (ray.dashboard.modules.job).
CONFIG, KEY = "RAY_JOB_CONFIG_JSON_ENV_VAR", "job_submission_id"


def submission_id() -> str | None:
    """Of the Ray job that this process is the driver of; None where nobody submitted it."""
    found: str | None = json.loads(os.environ.get(CONFIG) or "{}").get("metadata", {}).get(KEY)
    return found


def how_to_go_on() -> str:
    """The command that goes on where this one stops."""
    words = " ".join(shlex.quote(word) for word in sys.argv[1:] if word != "--fresh")
    if submission_id():
        return f"go on by submitting it again: ray job submit ... -- python -m ray_jobs {words}"
    return f"go on with: minibert {words}"
