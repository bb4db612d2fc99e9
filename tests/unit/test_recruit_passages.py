"""Passages, words, and how a hit is shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from multitask.recruit.index import words_within
from multitask.recruit.passages import Passage, first_words, passages, pieces
from multitask.recruit.postings import Posting
from multitask.recruit.search import Hit
from multitask.recruit.words import Lexical, term, terms, words
from ray_jobs.recruit.search import hit_text
from tests.postings import DRIVER, NURSE, POSTINGS


def without_blanks(text: str) -> str:
    return re.sub(r"\s", "", text)


# Passages


@given(st.text("ab.\n -é漢", max_size=300), st.integers(1, 12))
def test_pieces_lose_nothing_and_are_short(text: str, most: int) -> None:
    found = pieces(text, most)
    assert "".join(map(without_blanks, found)) == without_blanks(text)
    assert all(piece == piece.strip() and piece in text for piece in found)
    assert all(1 <= len(re.findall(r"\S{1,24}", piece)) <= most for piece in found)


def test_pieces_end_where_an_item_a_sentence_or_a_line_does() -> None:
    assert pieces("one two three\nfour\n- five six seven eight nine", 6) == [
        "one two three\nfour",
        "- five six seven eight nine",
    ]
    assert pieces("one two. three four five six seven", 4) == ["one two.", "three four five", "six seven"]
    assert pieces("one two three four\nfive six seven eight", 5)[0] == "one two three four"
    assert pieces("one two three four five six", 4)[0] == "one two three four"


def test_the_last_two_pieces_are_of_similar_length() -> None:
    lengths = [len(piece.split()) for piece in pieces("word " * 210, 100)]
    assert lengths == [100, 80, 30]
    assert [len(piece.split()) for piece in pieces("word " * 101, 100)] == [75, 26]


def test_a_passage_is_embedded_with_its_title() -> None:
    found = passages([NURSE, DRIVER], most=5)
    assert [passage.posting for passage in found] == sorted(passage.posting for passage in found)
    assert found[0] == Passage(0, "Care for patients by night.", "Nurse")
    assert found[0].embedded == "Nurse\nCare for patients by night."
    assert all(passage.embedded == passage.text for passage in passages(POSTINGS, without=("title",)))
    assert not any(
        "nurse" in passage.embedded.casefold() for passage in passages([NURSE], without=("title", "qualifications"))
    )


def test_a_posting_with_nothing_but_its_title_is_a_passage() -> None:
    assert passages([Posting("1", "Cook", qualifications="Taste")], without=("qualifications",)) == [Passage(0, "Cook")]


def test_what_an_encoder_takes_bounds_a_passage() -> None:
    assert (words_within(512, 100), words_within(40, 100), words_within(1, 100)) == (100, 24, 1)
    assert first_words(" one\ntwo three", 2) == " one\ntwo"
    assert first_words("", 2) == ""


# Words


def test_words_of_one_form() -> None:
    assert terms("Companies' RÉSUMÉS, C++/C# and the classes; it is for an IT business") == [
        *("company", "resume", "c++", "c#", "classe", "it", "business"),
    ]
    assert term("re\u0301sume\u0301s") == term("resume")
    text = "see the C++ résumés!"
    assert [text[word.start : word.end] for word in words(text) if word.term] == ["see", "C++", "résumés"]


def test_bm25_counts_rare_words_more() -> None:
    lexical = Lexical(["work work nurse", "work driver", "work"])
    scores = lexical.scores("Nurses at work")
    assert scores[0] > scores[2] > scores[1] > 0  # the shorter of two that only have "work"
    assert lexical.frequency("work") == 3


@pytest.mark.parametrize("texts", [["", "the of"], ["nurse", ""]])
def test_bm25_of_no_words(texts: list[str]) -> None:
    assert Lexical(texts).scores("the of and").tolist() == [0, 0]
    assert Lexical(texts).scores("unheard-of").tolist() == [0, 0]


# Shown


def hit_of(passage: str, *marked: tuple[int, int]) -> Hit:
    return Hit(Posting("1", "Nurse", "Clinic", "Yerevan", passage), 0.5, passage, marked)


def test_marked_words_on_paper_and_on_a_terminal() -> None:
    hit = hit_of("Care for [bold]patients[/bold]", (0, 4))
    plain = hit_text(1, hit, styled=False).plain
    assert plain == "1. Nurse  0.500  Clinic, Yerevan\n[Care] for [bold]patients[/bold]\n"
    console = Console(force_terminal=True, width=80)
    with console.capture() as captured:
        console.print(hit_text(1, hit, styled=True))
    assert "\x1b[1mCare\x1b[0m for [bold]patients" in captured.get()


def test_a_posting_cannot_steer_the_terminal() -> None:
    text = hit_text(1, hit_of("a\x9b31m \u202etxt \u200bb", (0, 1)), styled=False).plain
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "[a] 31m  txt  b" in text
