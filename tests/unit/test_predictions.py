"""CS224N's prediction files and submission zip."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from multitask.errors import UserError
from multitask.inference.submission import SUBMISSION, write_predictions, write_submission_zip
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS

# As in files that students of the course made with its starter code.
EXPECTED = {
    "sst": ("sst-dev-output.csv", [3.0, 0.0], "id \t Predicted_Sentiment \na1 , 3 \nb2 , 0 \n"),
    "cfimdb": ("cfimdb-dev-output.csv", [1, 0], "id \t Predicted_Sentiment \na1 , 1 \nb2 , 0 \n"),
    "quora": ("para-dev-output.csv", [1, 0.0], "id \t Predicted_Is_Paraphrase \na1 , 1.0 \nb2 , 0.0 \n"),
    "sts": ("sts-dev-output.csv", [2.5, 5], "id \t Predicted_Similiary \na1 , 2.5 \nb2 , 5.0 \n"),
    # Tasks of our own, in the same form.
    "jobs": ("jobs-dev-output.csv", [0.25, 1], "id \t Predicted_Match \na1 , 0.25 \nb2 , 1.0 \n"),
    "skills": ("skills-dev-output.csv", [0.25, 1], "id \t Predicted_Match \na1 , 0.25 \nb2 , 1.0 \n"),
    "suitability": (
        "suitability-dev-output.csv", [0.25, 1], "id \t Predicted_Suitability \na1 , 0.2500 \nb2 , 1.0000 \n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_file_is_written_as_the_starter_code_does(tmp_path: Path, task: str) -> None:
    name, labels, content = EXPECTED[task]
    path = write_predictions(Storage(str(tmp_path)), TASKS[task], "dev", ["a1", "b2"], labels)
    assert path == f"predictions/{name}"
    assert (tmp_path / path).read_bytes().decode() == content


def test_ids_and_labels_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(Storage(str(tmp_path)), TASKS["sst"], "dev", ["a1", "b2"], [1.0])
    assert not (tmp_path / "predictions").exists()


def test_ids_of_any_kind_come_back_whole(tmp_path: Path) -> None:
    ids = ["plain", "a,b", 'say "so"', "two\nlines", "http://x/?q=1,2", "a\r\nb", '"']
    path = write_predictions(Storage(str(tmp_path)), TASKS["sst"], "dev", ids, range(len(ids)))
    with open(tmp_path / path, newline="") as file:
        next(file)
        rows = [[cell.removesuffix(" ") for cell in row] for row in csv.reader(file, skipinitialspace=True)]
    assert rows == [[id_, str(label)] for label, id_ in enumerate(ids)]


def test_the_zip_holds_the_prediction_files_and_equal_ones_give_equal_bytes() -> None:
    storages = [Storage("memory://predictions-one"), Storage("memory://predictions-two")]
    for storage, tasks in zip(storages, (["sst", "quora"], ["quora", "sst"]), strict=True):
        for task in tasks:
            write_predictions(storage, TASKS[task], "test", ["a1"], [1.0])
        storage.write_bytes("predictions/notes.txt", b"not a prediction")
        assert write_submission_zip(storage) == SUBMISSION
    first, second = (storage.read_bytes(SUBMISSION) for storage in storages)
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == ["predictions/para-test-output.csv", "predictions/sst-test-output.csv"]
        assert archive.read("predictions/sst-test-output.csv").decode().endswith("a1 , 1 \n")


def test_the_zip_holds_what_was_just_written_though_a_listing_does_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    before = write_predictions(storage, TASKS["sst"], "dev", ["a1"], [1.0])
    written = write_predictions(storage, TASKS["quora"], "dev", ["a1"], [1.0])
    monkeypatch.setattr(Storage, "list", lambda self, path: [before.removeprefix("predictions/")])
    with zipfile.ZipFile(io.BytesIO(storage.read_bytes(write_submission_zip(storage, [written])))) as archive:
        assert archive.namelist() == [written, before]


def test_nothing_to_zip(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predictions: no \*-output.csv to zip"):
        write_submission_zip(Storage(str(tmp_path)))
