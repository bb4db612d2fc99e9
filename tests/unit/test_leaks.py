"""Texts that train, dev and test share: against plain loops, and at the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from multitask.data.nearness import SIMILAR, Sketcher, jaccard, near
from multitask.data.plain import plain
from multitask.data.sample import sample_uri
from multitask.recipe.clean import TrainingTexts
from multitask.recipe.data_maps import place_of
from multitask.recipe.leaks import find_leaks, read_files
from multitask.tasks.table import TASKS
from ray_jobs.cli import app


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What's IPL?", "what s  ipl", True),
        ("ﬁne\u00a0“day”", 'Fine "day"', True),
        ("Straße", "STRASSE", True),
        ("!", "?", False),
        ("C++", "C", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("caf\u00e9", "cafe", False),
    ],
)
def test_plain_texts(one: str, other: str, same: bool) -> None:
    assert (plain(one) == plain(other)) is same
    assert plain(plain(one)) == plain(one)


def runs(text: str) -> set[int]:
    words = text.split()
    return {hash(" ".join(words[at : at + 3])) for at in range(max(1, len(words) - 2))}


def changed(text: str, drawn: random.Random) -> str:
    words = text.split()
    words[drawn.randrange(len(words))] = drawn.choice("abcdefgh")
    return " ".join(words[: len(words) - drawn.randrange(2)])


@pytest.mark.slow
def test_near_units_are_those_of_jaccard_similarity() -> None:
    """All pairs of 300 texts with 300 others, compared one by one. None is near that is not, and few are missed."""
    drawn = random.Random(5)
    mine = [" ".join(drawn.choices("abcdefgh", k=drawn.randrange(1, 25))) for _ in range(300)]
    others = [changed(text, drawn) for text in mine]
    expected = [max(jaccard(runs(text), runs(other)) for other in others) >= SIMILAR for text in mine]
    sketcher = Sketcher()
    ours, theirs = sketcher.of([(text,) for text in mine]), sketcher.of([(text,) for text in others])
    found = near(ours, np.arange(len(mine)), theirs)
    assert 50 < sum(expected) < 250
    for text, place, is_near in zip(mine, found.tolist(), expected, strict=True):
        assert place < 0 or (is_near and jaccard(runs(text), runs(others[place])) >= SIMILAR)
    assert (found >= 0).sum() >= 0.97 * sum(expected)
    some = np.array([7, 250, 3])
    assert np.array_equal(near(ours, some, theirs), found[some])


def test_near_pairs_are_so_in_any_order_and_however_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = "a b c d e f g h i j", "k l m n o p q r s t"
    sketcher = Sketcher()
    theirs = sketcher.of([("x y", "z"), (two, one + " z")])
    ours = sketcher.of([(one, two), (one, "u v w x y z a b c d")])
    assert near(ours, np.arange(2), theirs).tolist() == [1, -1]
    assert near(ours, np.arange(2), sketcher.of([])).tolist() == [-1, -1]
    whole = Sketcher().of([("a b", "c"), (one, two)])
    assert whole.offsets.tolist() == [0, 2, 18]
    monkeypatch.setattr("multitask.data.nearness.CHUNK", 1)
    by_one = Sketcher().of([("a b", "c"), (one, two)])
    assert np.array_equal(by_one.signatures, whole.signatures) and np.array_equal(by_one.runs, whole.runs)


def test_of_many_alike_candidates_one_is_found() -> None:
    sketcher = Sketcher()
    crowd = sketcher.of([(f"every text of this template has the number {at}",) for at in range(500)])
    asked = sketcher.of([("every text of this template has the number none",)])
    assert near(asked, np.array([0]), crowd)[0] >= 0


FILES = {
    "quora-train": [("How are you today?", "Are you well?"), ("a b c d e f g h i", "p q r s t u v"), ("only", "here")],
    "quora-dev": [
        ("Are you well?", "How are you today?"),
        ("HERE!", "elsewhere"),
        ("a b c d e f g h j", "z"),
        ("x", "y"),
    ],
    "sts-dev": [("x", "only"), ("are you well", "How are you, today")],
    "sts-test-student": [("nothing", "of this")],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        label = "is_duplicate" if name.startswith("quora") else "similarity"
        lines = [f"{at}\t{one}\t{two}\t1" for at, (one, two) in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id\tsentence1\tsentence2\t{label}", *lines]) + "\n")
    return tmp_path


def told(*words: str) -> Any:
    done = CliRunner().invoke(app, ["data", "check", *words, "--leaks", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_files_of_different_splits_share(data: Path) -> None:
    found = told(str(data))
    leaks = {(leak["of"], leak["with"], leak["unit"]): leak for leak in found["leaks"]}
    counts = {key: (leak["exact"], leak["normalised"], leak["near"]) for key, leak in leaks.items()}
    assert counts == {
        ("quora dev", "quora train", "text"): (1, 1, 1),
        ("quora train", "quora dev", "text"): (1, 1, 1),
        ("sts dev", "quora train", "text"): (1, 1, 0),
        ("quora train", "sts dev", "text"): (1, 1, 0),
        ("quora dev", "quora train", "pair"): (1, 0, 0),
        ("quora train", "quora dev", "pair"): (1, 0, 0),
        ("sts dev", "quora train", "pair"): (0, 1, 0),
        ("quora train", "sts dev", "pair"): (0, 1, 0),
    }
    first = leaks["sts dev", "quora train", "pair"]["examples"][0]
    assert (first["kind"], first["id"], first["other_id"]) == ("normalised", "1", "0")
    assert first["mine"] == ["are you well", "How are you, today"], "in the file's order"
    assert leaks["quora dev", "quora train", "text"]["rows"] == 4 and len(found["files"]) == 4


def test_a_recipes_tasks_are_looked_at_in_the_data_it_is_given(data: Path) -> None:
    (data / "small.yaml").write_text(
        "name: small\nencoder: tiny\ntasks: {sts: {head: cosine}}\n"
        "stages: [{name: a, tasks: [sts], train: full-model, lr: 1e-3}]\n"
    )
    found = told(str(data / "small.yaml"), "--data", str(data))
    assert [file["name"] for file in found["files"]] == ["sts dev", "sts test"] and found["leaks"] == []
    done = CliRunner().invoke(app, ["data", "check", str(data / "small.yaml"), "--data", str(data), "--leaks"])
    assert "no two splits share a text: sts dev, sts test" in done.output
    assert {file["name"] for file in told("demo")["files"]} == {
        f"{task} {split}" for task in ("sst", "quora", "sts") for split in ("train", "dev", "test")
    }
    (data / "sts-dev.csv").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(data / "small.yaml"), "--data", str(data), "--leaks"])
    assert "has sts test; nothing can be shared but between two of train, dev, test" in str(done.exception)


def test_a_table_and_examples_for_people(data: Path) -> None:
    done = CliRunner().invoke(app, ["data", "check", str(data), "--leaks"])
    assert done.exit_code == 0
    assert "quora dev with quora train, texts:" in done.output and "75.0%" in done.output
    assert "  near: 2 = 1: a b c d e f g h j ~ a b c d e f g h i" in done.output
    assert "quora train with quora dev, texts:" not in done.output


def test_the_sample_is_compared_alike_by_a_plain_loop() -> None:
    files = {file.name: file for file in read_files(place_of(sample_uri()))}
    found = {(leak.of, leak.with_): leak.counts[:2] for leak in find_leaks(list(files.values())) if leak.unit == "text"}
    for name in ("sst", "quora", "sts", "cfimdb"):
        dev, train = files[f"{name} dev"], {text for texts in files[f"{name} train"].texts for text in texts}
        plains = {plain(text) for text in train}
        exact = sum(not train.isdisjoint(texts) for texts in dev.texts)
        both = sum(not plains.isdisjoint(map(plain, texts)) for texts in dev.texts)
        if key := found.get((dev.name, f"{name} train")):
            assert key == (exact, both - exact)
        else:
            assert both == 0


def test_files_that_tasks_share_are_read_once_for_each_of_their_columns(data: Path) -> None:
    seen = TrainingTexts()
    for _ in range(2):
        seen.add(place_of(str(data)), [TASKS["quora"], TASKS["sts"]], {})
    assert len(seen.files) == 1 and plain("How are you today?") in seen.texts and len(seen.texts) == 6
    _, rows = seen.unseen(place_of(str(data)), TASKS["quora"], "dev", {})
    assert rows.tolist() == [False, False, True, True]


@pytest.mark.slow
def test_a_fifth_of_the_real_quora_train_shares_a_question_with_quora_dev(cs224n: Path) -> None:
    files = [file for file in read_files(place_of(str(cs224n))) if file.name in ("quora train", "quora dev")]
    leaks = {(leak.of, leak.unit): leak for leak in find_leaks(files)}
    assert 0.19 < leaks["quora train", "text"].shared / leaks["quora train", "text"].rows < 0.21
    assert leaks["quora dev", "text"].counts[:2] == (4792, 13)
