"""The numbers behind `minibert data check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.data.sample import sample_uri
from multitask.errors import UserError
from multitask.recipe.data_check import check_data, render


def test_a_file_s_numbers(tmp_path: Path) -> None:
    rows = ["a b c\t0", "a\t4", "a b\t4", "\t1", "x\t9"]
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(["sentence\tsentiment", *rows]))
    (report,) = check_data(str(tmp_path))
    assert (report.task, report.split, report.rows) == ("sst", "dev", 3)
    assert report.labels == ((0, 1), (4, 2))
    assert report.words == (1, 2, 3, 3)
    text = render([report])
    assert "sst dev: 3 rows, 2 quarantined" in text
    assert "0: 33.3%  4: 66.7%" in text
    assert f"{tmp_path}/ids-sst-dev.csv:5: sentence is empty" in text
    assert f"{tmp_path}/ids-sst-dev.csv:6: sentiment is not in 0..4: '9'" in text


def test_one_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "ids-sst-dev.csv").write_text("text\nx\n")
    (tmp_path / "sts-test-student.jsonl").write_text('{"sentence1": "a", "sentence2": "b c d"}\nbroken\n')
    sst, sts = check_data(str(tmp_path))
    assert "no column sentence" in sst.problem
    assert (sts.rows, sts.words, [row.line for row in sts.quarantined]) == (1, (1, 2, 3, 3), [2])
    assert len(render([sst, sts]).splitlines()) == 6


def test_many_malformed_rows_are_counted_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "ids-sst-dev.csv").write_text("sentence\tsentiment\n" + "x\t\n" * 50)
    (report,) = check_data(str(tmp_path))
    assert (report.rows, len(report.quarantined)) == (0, 50)
    assert render([report]).endswith(":21: sentiment is missing\n  ... and 30 more")


def test_the_sample_is_sound() -> None:
    reports = check_data(sample_uri())
    assert len(reports) == 12
    assert not any(report.quarantined or report.problem for report in reports)


def test_a_directory_without_data(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match=r"no file of a known task.*quora-train.csv.*holds readme.txt"):
        check_data(str(tmp_path))


@pytest.mark.slow
def test_the_two_malformed_rows_of_the_real_quora_dev(cs224n: Path) -> None:
    reports = check_data(str(cs224n))
    text = render(reports)
    assert "quora-dev.csv:2577: is_duplicate is missing" in text
    assert "quora-dev.csv:14222: sentence2 is empty" in text
    assert sum(len(report.quarantined) for report in reports) == 2
