"""CS224N's prediction files and the zip that holds them, as the default project's starter code writes them.

Checked against public copies of that project (multitask_classifier.py, prepare_submit.py): a header
`id \\t Predicted_Sentiment \\n`, then `{id} , {label} \\n`; sentiment labels are integers, paraphrase labels
`0.0` or `1.0`, similarities real numbers. The zip keeps the files under `predictions/`, uncompressed.

An id or a word that holds a comma, a quote or a line's end is quoted as RFC 4180 has it:
csv.reader(file, skipinitialspace=True) gives it back but for the blank behind.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from typing import Any

from multitask.errors import UserError
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from multitask.tasks.labels import KINDS
from multitask.tasks.table import Split, TaskSpec

FOLDER = "predictions"
SUBMISSION = "cs224n_default_final_project_submission.zip"
TASKS = ("sst", "quora", "sts", "cfimdb")  # that the project sets
_ENDING = "-output.csv"
_SPECIAL = re.compile('[,"\r\n]')
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first moment: equal predictions, equal bytes


def write_predictions(storage: Storage, spec: TaskSpec, split: Split, ids: Iterable[str], labels: Iterable[Any]) -> str:
    """Writes `predictions/<stem>-<split>-output.csv` and returns that path.

    labels: one an id, in the task's own unit: a class, 0 or 1, or a score; not logits or probabilities. Classes that
    have words are written as words. Raises ValueError where there are not as many labels as ids.
    """
    stem, title = spec.prediction
    written = KINDS[spec.label.kind].written
    rows = [f"{_cell(id_)} , {_cell(written(label, spec.label))} \n" for id_, label in zip(ids, labels, strict=True)]
    path = f"{FOLDER}/{stem}-{split}{_ENDING}"
    storage.write_bytes(path, "".join([f"id \t {title} \n", *rows]).encode())
    return path


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text


def is_submitted(tasks: Iterable[str]) -> bool:
    """Whether predictions of some of those tasks are what CS224N's zip is for."""
    return not set(TASKS).isdisjoint(tasks)


def write_submission_zip(storage: Storage, written: Iterable[str] = (), name: str = SUBMISSION) -> str:
    """Zips all prediction files of the storage, in the order of their names, and returns the zip's path.

    written: paths that were just written, which a listing may not show yet. Raises UserError where there are no
    prediction files.
    """
    names = {*storage.list(FOLDER), *(path.removeprefix(f"{FOLDER}/") for path in written)}
    files = sorted(file for file in names if file.endswith(_ENDING))
    if not files:
        raise UserError(f"{join(storage.uri, FOLDER)}: no *{_ENDING} to zip; `minibert predict` writes them")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in files:
            path = f"{FOLDER}/{file}"
            archive.writestr(zipfile.ZipInfo(path, _EPOCH), storage.read_bytes(path))
    storage.write_bytes(name, content.getvalue())
    return name
