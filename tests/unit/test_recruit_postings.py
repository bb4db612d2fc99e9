"""Postings: what is read, what is left out, which repeat each other, and the training files made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.recipe.loading import load_recipe
from multitask.recruit.pairs import WEAK, WEAK_NOTE, Corpus, write_training_files
from multitask.recruit.postings import Posting, clean, read_postings
from multitask.recruit.repeats import repeat_groups
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS

HEADER = "id,Title,Company,Location,JobDescription,JobRequirment,RequiredQual\n"
LONG = "\n".join(f"- duty number {line} of the post" for line in range(300))
TRADES = ("Accountant", "Senior Accountant", "Cook", "Driver", "Programmer", "Web Programmer")


def posting(number: int, title: str = "") -> Posting:
    words = " ".join(f"word{number}x{at}" for at in range(30))
    return Posting(
        str(number), title or f"Trade{number}", "ACME", "Yerevan", f"Does {words}", f"Must {words}", f"Knows {words}"
    )


def corpus(count: int = 24) -> Corpus:
    postings = [posting(at, TRADES[at % len(TRADES)]) for at in range(count)]
    postings += [Posting(f"again{at}", *list(postings[at].to_json().values())[1:]) for at in range(4)]
    return Corpus(postings, repeat_groups(postings))


def test_reads_fields_over_many_lines_and_what_stands_for_missing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(f'{HEADER}7,Cook,"A\nSPILLED: text",NA,"{LONG}",n/a,  NA \n,Driver,,,Drives.,,\n')
    first, second = read_postings(str(path)).items
    assert (first.id, first.title, first.company, first.location) == ("7", "Cook", "A", "")
    assert first.description == LONG and first.requirements == first.qualifications == ""
    assert (second.id, second.text()) == ("303", "Driver\nDrives.")


def test_a_posting_without_title_or_text_is_left_out_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    good = "".join(f"{at},Cook,,,Cooks.,,\n" for at in range(30))
    path.write_text(f"{HEADER}{good}a,NA,,,Cooks.,,\nb,Cook,,,NA,,\nc,Cook,,,too,few\n")
    found = read_postings(str(path))
    assert len(found.items) == 30
    assert [(row.line, row.reason.split(":")[0]) for row in found.quarantined] == [
        (32, "no title"), (33, "no text"), (34, "6 columns where the header has 7"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Name,JobDescription\na,b\n", "no column Title; columns found: Name, JobDescription"),
        ("Title,Company\na,b\n", "no column JobDescription, JobRequirment, RequiredQual (one of them)"),
        (HEADER, "no rows"),
        (HEADER + "1,NA,,,Cooks.,,\n", "1 of 1 postings cannot be used"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_postings(str(path))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_other_formats_and_column_names(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(json.dumps({"name": "Cook", "JobDescription": "Cooks."}) + "\n")
    assert read_postings(str(path), {"title": "name"}).items[0].title == "Cook"
    with pytest.raises(UserError, match="postings have no 'salary'; they have id, title"):
        read_postings(str(path), {"salary": "pay"})
    with pytest.raises(UserError, match="unknown format"):
        read_postings("jobs.docx")


@given(st.text())
def test_cleaned_text_holds_no_control_characters(text: str) -> None:
    found = clean(text)
    assert clean(found) == found
    assert not [c for c in found if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]


def test_repeats_are_found_and_others_are_not() -> None:
    postings = [posting(0), posting(1), posting(2)]
    again = Posting("again", "Another title", description=postings[1].description + " now", requirements="Must "
                    + postings[1].requirements, qualifications=postings[1].qualifications)  # fmt: skip
    assert repeat_groups([*postings, again]).tolist() == [0, 1, 2, 1]


def test_repeats_of_repeats_are_one_group_in_any_order() -> None:
    words = [f"w{at}" for at in range(80)]
    drift = [Posting(str(at), "T", description=" ".join(words[at * 5 : at * 5 + 60])) for at in range(3)]
    groups = {tuple(repeat_groups([drift[at] for at in order]).tolist()) for order in ((0, 1, 2), (0, 2, 1), (2, 0, 1))}
    assert groups == {(0, 0, 0)}


def test_folds_keep_groups_together_and_hold_every_posting_once() -> None:
    found = corpus()
    folds = found.folds(5, seed=1)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    assert all(len(set(folds[found.groups == group].tolist())) == 1 for group in set(found.groups.tolist()))
    assert folds.tolist() == found.folds(5, seed=1).tolist() != found.folds(5, seed=2).tolist()


def test_training_files_can_be_read_and_share_no_group(tmp_path: Path) -> None:
    found, storage = corpus(), Storage(str(tmp_path))
    rows = write_training_files(storage, found, found.folds(4, 1) == 0, seed=1)
    assert rows["postings-train"] + rows["postings-dev"] == len(found.postings)
    groups = {}
    for task in ("jobs", "skills", "suitability"):
        for split in ("train", "dev"):
            read = read_examples(str(tmp_path / f"{task}-{split}.jsonl"), TASKS[task], labelled=True)
            assert len(read.examples) == rows[f"{task}-{split}"] and not read.quarantined
            groups[task, split] = {example.id.split("/")[0] for example in read.examples}
        assert not groups[task, "train"] & groups[task, "dev"]
    assert len(read_postings(str(tmp_path / "postings-dev.jsonl")).items) == rows["postings-dev"]


def test_a_query_is_not_in_its_posting_and_weak_labels_follow_the_title(tmp_path: Path) -> None:
    found = corpus()
    write_training_files(Storage(str(tmp_path)), found, found.folds(4, 1) == 0, seed=1)
    titles = {p.qualifications: p.title for p in found.postings}
    for line in (tmp_path / "jobs-train.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["match"] == 1 and not row["sentence2"].startswith(row["sentence1"])
    seen = set()
    for line in (tmp_path / "suitability-train.jsonl").read_text().splitlines():
        row = json.loads(line)
        job, other = row["job"].split("\n")[0], titles[row["application"]]
        near = bool({"Accountant", "Programmer"} & set(job.split()) & set(other.split()))
        kind = "own" if row["score"] == 1 else "near" if near else "far"
        assert row["score"] == WEAK[kind] and row["id"].endswith(f"/{kind}")
        assert (job == other) == (kind == "own")
        seen.add(kind)
    assert seen == set(WEAK)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    found = corpus()
    for name in ("a", "b"):
        write_training_files(Storage(str(tmp_path / name)), found, np.arange(28) < 6, seed=3)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_the_recipe_says_how_its_weak_labels_are_made() -> None:
    assert load_recipe("recruiter/all").tasks["suitability"].note == WEAK_NOTE
