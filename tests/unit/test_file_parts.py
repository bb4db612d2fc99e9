"""Parts of one file: disjoint and whole, decided by content alone, and what they are worth to a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from multitask.data.file_parts import Part, parted
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.recipe.checks import build_map
from multitask.recipe.data_maps import Place
from multitask.tasks.table import TASKS

SPEC = TASKS["sst"]


def write(path: Path, rows: list[tuple[str, int, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "sentiment", "author"])
        writer.writerows(rows)


def rows(count: int) -> list[tuple[str, int, str]]:
    return [(f"text number {at}", at % 5, f"author {at % 37}") for at in range(count)]


def place(file: Path, **split: Any) -> Place:
    return Place("map", build_map({"tasks": {"sst": {"train": str(file), "split": split}}}, "map"), "")


def texts(where: Place, split: Any) -> list[str]:
    found = read_examples(where.find(SPEC, split), SPEC, labelled=True)
    return [example.texts[0] for example in found.examples]


@pytest.mark.parametrize("split", [{"dev": 0.1}, {"dev": 0.2, "test": 0.1}])
def test_parts_are_disjoint_and_all(tmp_path: Path, split: dict[str, float]) -> None:
    write(tmp_path / "a.csv", rows(2000))
    where = place(tmp_path / "a.csv", **split)
    found = {name: texts(where, name) for name in ("train", "dev", "test") if where.has(SPEC, name)}
    assert ("test" in found) == ("test" in split)
    together = [text for part in found.values() for text in part]
    assert sorted(together) == sorted(text for text, _, _ in rows(2000))
    for name, share in split.items():
        assert abs(len(found[name]) - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5  # 4 standard deviations
    shas = {read_examples(where.find(SPEC, name), SPEC, labelled=True).sha256 for name in found}  # type: ignore[arg-type]
    assert len(shas) == len(found)


def test_no_row_moves_when_others_are_added_or_sorted(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", rows(500))
    before = set(texts(place(tmp_path / "a.csv", dev=0.2), "dev"))
    write(tmp_path / "a.csv", rows(900)[::-1])
    after = set(texts(place(tmp_path / "a.csv", dev=0.2), "dev"))
    assert before == after & {text for text, _, _ in rows(500)}


def test_rows_of_a_group_or_of_equal_texts_stay_together(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [*rows(600), *rows(600)])
    where = place(tmp_path / "a.csv", dev=0.3, by="author")
    dev = texts(where, "dev")
    authors = {text: author for text, _, author in rows(600)}
    assert dev and {authors[text] for text in dev}.isdisjoint({authors[text] for text in texts(where, "train")})
    alike = place(tmp_path / "a.csv", dev=0.3)
    assert set(texts(alike, "dev")).isdisjoint(texts(alike, "train"))


def test_a_directorys_file_is_parted_too_and_an_own_dev_file_stays_whole(tmp_path: Path) -> None:
    write(tmp_path / "ids-sst-train.csv", rows(300))
    write(tmp_path / "own.csv", rows(7))
    tasks = build_map({"tasks": {"sst": {"split": {"dev": 0.1, "test": 0.1}, "dev": str(tmp_path / "own.csv")}}}, "map")
    where = Place("directory", tasks, str(tmp_path))
    assert len(texts(where, "dev")) == 7 and len(texts(where, "train")) + len(texts(where, "test")) == 300
    assert len(texts(where, "test")) > 10


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"dev": 0.6, "test": 0.4}, "dev and test take 1 of all rows; less than 1, training wants some"),
        ({"dev": 0}, "tasks.sst.split.dev"),
        ({"share": 0.1}, "tasks.sst.split.share"),
        ({"fold": "3/2"}, "fold: 3/2: one of 2 folds or more, such as 1/5, and no test beside it"),
        ({"fold": "1/5", "test": 0.1}, "fold: 1/5: one of 2 folds or more"),
        ({"fold": "1/5", "dev": 0.1}, "exactly one of dev and fold says which rows are dev"),
    ],
)
def test_what_is_no_split_is_one_line(tmp_path: Path, split: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        place(tmp_path / "a.csv", **split)


def test_a_part_that_is_empty_and_a_column_that_is_not_there_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", rows(3))
    with pytest.raises(UserError, match=r"a.csv#dev of dev=0.001,test=0.0: none of 3 rows is of this part"):
        texts(place(tmp_path / "a.csv", dev=0.001), "dev")
    with pytest.raises(UserError, match=r"no column autor; columns found: .*; did you mean author\?"):
        texts(place(tmp_path / "a.csv", dev=0.5, by="autor"), "dev")


@pytest.mark.parametrize(
    "part", [Part("dev", 0.1), Part("train", 0.25, 0.5, "a column, of three words"), Part("dev", fold=2, folds=5)]
)
def test_a_mark_is_read_as_it_was_written(part: Part) -> None:
    assert parted(f"s3://bucket/a b#1.csv{part.mark}") == ("s3://bucket/a b#1.csv", part)
    assert parted("s3://bucket/a#dev.csv") == ("s3://bucket/a#dev.csv", None)


def test_each_row_is_dev_in_one_fold() -> None:
    keys = [f"row {at}" for at in range(1000)]
    counts = [sum(Part("dev", fold=fold, folds=5).holds(key) for fold in range(1, 6)) for key in keys]
    assert set(counts) == {1}
    assert all(Part("train", fold=2, folds=5).holds(key) != Part("dev", fold=2, folds=5).holds(key) for key in keys)


def test_a_fold_beside_a_dev_file_would_lose_rows(tmp_path: Path) -> None:
    tree = {"tasks": {"sst": {"train": "a.csv", "dev": "b.csv", "split": {"fold": "1/5"}}}}
    with pytest.raises(UserError, match=r"split\.fold makes dev of the training file, and dev names another"):
        build_map(tree, "map")


def test_own_columns_are_judged_where_a_file_has_them_and_a_weight(tmp_path: Path) -> None:
    """A quote that is open has the reader try rows both ways, by the columns that the file really has."""
    (tmp_path / "a.tsv").write_text('sentence\tsentiment\tworth\n"open quote\t1\t2\nsecond\t2\t1\n')
    found = read_examples(
        str(tmp_path / "a.tsv"), SPEC, labelled=True, columns={"sentence": "review"}, weight="worth", max_bad_rows=1.0
    )
    assert [(example.texts[0], example.weight) for example in found.examples] == [('"open quote', 2.0), ("second", 1.0)]


def test_a_share_of_a_file_is_of_its_content_and_goes_with_a_split(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", rows(2000))
    write(tmp_path / "b.csv", [(f"other {at}", 1, "x") for at in range(100)])
    files = {str(tmp_path / "a.csv"): 0.25, str(tmp_path / "b*.csv"): 1.0}

    def of(**task: Any) -> Place:
        return Place("map", build_map({"tasks": {"sst": {"train": files, **task}}}, "map"), "")

    found = texts(of(), "train")
    mine = [text for text in found if text.startswith("text")]
    assert len(found) - len(mine) == 100 and abs(len(mine) - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    more = {**files, str(tmp_path / "a.csv"): 0.5}
    assert {*mine} < {*texts(Place("map", build_map({"tasks": {"sst": {"train": more}}}, "map"), ""), "train")}
    train, dev = (texts(of(split={"dev": 0.2, "by": "author"}), split) for split in ("train", "dev"))
    assert not {*train} & {*dev} and 100 < len({*train, *dev} - {f"other {at}" for at in range(100)}) < 900
    shas = {
        read_examples(where.find(SPEC, "train"), SPEC, labelled=True).sha256 for where in (of(), of(split={"dev": 0.2}))
    }
    assert len(shas) == 2


@pytest.mark.parametrize("part", [Part(share=0.25), Part("dev", 0.1, 0.2, "a,b=c", share=0.5), Part(share=0.5, by="x")])
def test_a_share_is_written_behind_the_uri(part: Part) -> None:
    assert parted(f"s3://b/a#1.csv{part.mark}") == ("s3://b/a#1.csv", part)


@pytest.mark.parametrize("share", [0, 1.5, "half"])
def test_what_is_no_share_is_one_line(share: Any) -> None:
    with pytest.raises(UserError, match=r"map: tasks\.sst\.train\.a\.csv: ") as caught:
        build_map({"tasks": {"sst": {"train": {"a.csv": share}}}}, "map")
    assert len(str(caught.value).splitlines()) == 1
