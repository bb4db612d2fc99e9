"""Texts on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multitask.errors import UserError
from ray_jobs.cli import main
from ray_jobs.recruit.texts import given_text


def test_a_text_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv = tmp_path / "my cv.md"
    cv.write_bytes(b"\xef\xbb\xbfNurse\r\nsince\x07 2001\n")
    assert given_text(str(cv), "query") == "Nurse\nsince 2001"
    assert given_text("I wrote the docs in README.md", "query") == "I wrote the docs in README.md"
    monkeypatch.setattr("sys.stdin.read", lambda: "piped ", raising=False)
    assert given_text("-", "query") == "piped"
    for name, content, why in [
        ("cv.pdf", b"%PDF", r"\.pdf files are not read; save the text as \.txt or \.md"),
        ("bad.txt", b"caf\xe9", "no text in UTF-8"),
        ("big.txt", b"a" * 1_000_001, "1000001 bytes"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=why):
            given_text(str(tmp_path / name), "query")
    with pytest.raises(UserError, match=r"gone\.txt: no such file"):
        given_text("gone.txt", "query")


@pytest.mark.parametrize("text", ["", "  \n ", "NA"])
def test_no_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"job '.*': no text; give a text") as error:
        given_text(text, "job")
    assert len(str(error.value)) < 100


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.csv").write_text("Title,JobDescription\nCook,Cooks.\n")
    monkeypatch.setitem(sys.modules, "datasketch", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["minibert", "recruit", "prepare", str(tmp_path / "jobs.csv"), "--output", "x"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "minibert: datasketch is not installed: pip install 'minibert-multitask[recruit]'\n"
    )
