"""Passages, an index as files, search by words and by meaning, and which words carried a match."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from multitask.embed import TextEncoder
from multitask.errors import UserError
from multitask.recruit.index import Index, build, load_index, longest, save_index
from multitask.recruit.marks import MOST, Marker
from multitask.recruit.passages import Passage, first_words, passages, pieces
from multitask.recruit.postings import Posting
from multitask.recruit.search import MODES, Hit, Searcher
from multitask.recruit.words import Lexical, term, terms, words
from multitask.storage import Storage
from ray_jobs.recruit_search import build_index, run_search, shown
from tests.helpers import tiny

NURSE = Posting("1", "Nurse", "Clinic", "Yerevan", "Care for patients by night.", "", "A diploma in nursing.")
DRIVER = Posting("2", "Truck driver", "Road", "Gyumri", "Drive trucks.\n- Keep a log of miles;", "", "A licence.")
CODER = Posting(
    "3", "Programmer", "Soft", "Yerevan", "Write programs in C++ and Java.", "Test them.", "Résumé in English."
)
POSTINGS = [NURSE, DRIVER, CODER]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tiny())


@pytest.fixture(scope="module")
def searcher(encoder: TextEncoder) -> Searcher:
    return Searcher(build(encoder, POSTINGS), encoder)


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
    assert (longest(512, 100), longest(40, 100), longest(1, 100)) == (100, 24, 1)
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


# Index


def test_an_index_comes_back_as_it_was(encoder: TextEncoder, tmp_path: Path) -> None:
    odd = Posting("4", "Line\u2028break", description='\u2028 and \x85 "quotes" \\ 漢字')
    index = build(encoder, [*POSTINGS, odd])
    save_index(Storage(str(tmp_path / "index")), index, tiny(), {"completion": tiny()})
    back = load_index(Storage(str(tmp_path / "index")))
    assert (back.postings, back.passages) == (index.postings, index.passages)
    assert np.array_equal(back.vectors, index.vectors)
    assert back.facts["parts"] == ["completion"]
    assert index.facts.items() <= back.facts.items()
    opened = Searcher.open(str(tmp_path / "index"))
    before = Searcher(index, encoder)
    assert opened.search(["nurse"], 2) == before.search(["nurse"], 2)


def test_vectors_are_those_of_the_passages(encoder: TextEncoder) -> None:
    told: list[tuple[int, int]] = []
    index = build(encoder, POSTINGS, without=("title",), progress=lambda done, total: told.append((done, total)))
    assert np.allclose(index.vectors, encoder.embed([passage.text for passage in index.passages]), atol=1e-6)
    assert np.allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)
    assert told[-1] == (len(index.passages), len(index.passages))


def test_no_index_and_a_damaged_one_are_named(encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none there \(no manifest.json\); it holds nothing"):
        load_index(Storage(str(tmp_path / "none")))
    folder = tmp_path / "index"
    save_index(Storage(str(folder)), build(encoder, POSTINGS), tiny(), {})
    (folder / "passages.jsonl").write_bytes((folder / "passages.jsonl").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"damaged: .*passages\.jsonl"):
        Searcher.open(str(folder))
    with pytest.raises(UserError, match="something else of schema"):
        load_index(Storage(str(folder / "encoder")))


def test_nothing_but_an_index_is_replaced(encoder: TextEncoder, tmp_path: Path) -> None:
    index, storage = build(encoder, POSTINGS), Storage(str(tmp_path / "index"))
    save_index(storage, index, tiny(), {"suitability": tiny()})
    save_index(storage, build(encoder, POSTINGS[:1]), tiny(), {})
    assert len(load_index(storage).postings) == 1
    assert "suitability" not in storage.list()
    storage.remove("manifest.json")  # as if the last time had been interrupted
    save_index(storage, index, tiny(), {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(UserError, match=r"not empty, and no index; it holds thesis.txt"):
        save_index(Storage(str(tmp_path / "mine")), index, tiny(), {})
    with pytest.raises(UserError, match="not empty, and no index"):  # a bundle is sealed, too
        save_index(storage.at("encoder"), index, tiny(), {})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"


# Search


def test_words_alone_find_what_has_them(searcher: Searcher) -> None:
    hits = searcher.search(["who drives a TRUCK?"], 10, "bm25")[0]
    assert [hit.posting.id for hit in hits] == ["2"]
    assert hits[0].score == 1
    assert [hits[0].passage[start:end] for start, end in hits[0].words] == ["Drive", "trucks"]


def test_meaning_alone_ranks_by_the_best_passages_cosine(encoder: TextEncoder) -> None:
    long = replace(NURSE, description="Care for patients. " * 60)
    searcher = Searcher(build(encoder, [*POSTINGS, long]), encoder)
    query = "night shifts with patients"
    cosines = searcher.index.vectors @ encoder.embed([query])[0]
    best = [
        max(cosines[at] for at, piece in enumerate(searcher.index.passages) if piece.posting == place)
        for place in range(4)
    ]
    assert np.allclose(next(searcher.scores([query], "dense")), best, atol=1e-6)
    hits = searcher.search([query], 4, "dense")[0]
    assert [hit.score for hit in hits] == pytest.approx(sorted(best, reverse=True), abs=1e-6)
    for hit in hits:
        mine = [
            at
            for at, piece in enumerate(searcher.index.passages)
            if searcher.index.postings[piece.posting] == hit.posting
        ]
        assert hit.passage == searcher.index.passages[max(mine, key=lambda at: cosines[at])].text


def test_hybrid_is_the_weighted_sum(searcher: Searcher) -> None:
    query = ["a licence to drive trucks"]
    dense, lexical, hybrid = (next(searcher.scores(query, mode)) for mode in ("dense", "bm25", "hybrid"))
    assert np.allclose(hybrid, MODES["hybrid"].dense * dense + MODES["hybrid"].lexical * lexical, atol=1e-6)


def test_a_long_query_is_the_mean_of_its_pieces(searcher: Searcher, encoder: TextEncoder) -> None:
    words_a_piece = longest(encoder.max_length, 300)
    query = "nurse patients night " * words_a_piece
    parts = pieces(query, words_a_piece)
    assert len(parts) > 1
    each = np.stack([next(searcher.scores([part], "dense")) for part in parts])
    assert np.allclose(next(searcher.scores([query], "dense")), each.mean(0), atol=1e-5)


def test_queries_are_answered_as_if_each_were_alone(searcher: Searcher) -> None:
    asked = ["nurse", "a driver with a licence", "", "Java"]
    together = searcher.search(asked, 2)
    for query, hits in zip(asked, together, strict=True):
        (alone,) = searcher.search([query], 2)
        assert [hit.posting.id for hit in alone] == [hit.posting.id for hit in hits]
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_odd_queries(searcher: Searcher, mode: str) -> None:
    found = searcher.search(["", " \n", "the of and", "漢字 ünïcödé 🙂", "x" * 100_000, "nurse " * 2000], 99, mode)
    assert found[0] == found[1] == []
    assert [len(hits) for hits in found[2:5]] == [0 if mode == "bm25" else 3] * 3
    assert found[5][0].posting == NURSE or mode == "dense"
    assert not any(words for hits in found[2:4] for hit in hits for words in hit.words if mode == "bm25")


def test_one_posting_is_an_index(encoder: TextEncoder) -> None:
    searcher = Searcher(build(encoder, [NURSE]), encoder)
    for mode in MODES:
        (hit,) = searcher.search(["night nurse"], 5, mode)[0]
        assert hit.posting == NURSE


def test_wrong_settings_are_named(searcher: Searcher) -> None:
    with pytest.raises(UserError, match="mode 'best': valid are hybrid, dense, bm25"):
        searcher.search(["nurse"], mode="best")
    with pytest.raises(UserError, match=r"k 0: .* at least 1"):
        searcher.search(["nurse"], 0)


def many() -> list[Posting]:
    kinds = ["nurse", "driver", "programmer", "cook", "teacher", "guard", "clerk"]
    return [
        Posting(
            str(at),
            f"{kinds[at % 7]} {at}",
            description=f"Work as a {kinds[at % 7]} in district {at} by {kinds[at % 5]}",
        )
        for at in range(400)
    ]


def test_approximate_search_is_nearly_exact_and_says_how_near(encoder: TextEncoder, tmp_path: Path) -> None:
    exact = Searcher(build(encoder, many()), encoder)
    index = build(encoder, many(), exact_up_to=399)
    save_index(Storage(str(tmp_path / "index")), index, tiny(), {})
    near = Searcher.open(str(tmp_path / "index"))
    assert near.index.nearest is not None and exact.index.nearest is None
    assert near.index.facts["approximate"]["recall@10"] > 0.9
    asked = ["a cook for district 12", "teacher 11", "violin"]
    for mode in MODES:
        for want, got in zip(exact.search(asked, 10, mode), near.search(asked, 10, mode), strict=True):
            shared = {hit.posting.id for hit in want} & {hit.posting.id for hit in got}
            assert len(shared) >= 0.8 * len(want) and len(got) == len(want)
            assert [hit.score for hit in got[:1]] == pytest.approx([hit.score for hit in want[:1]], abs=1e-5)
    scores = next(near.scores(["teacher 11"], "dense"))
    assert 10 <= np.isfinite(scores).sum() < 400  # it has not looked at all of them


# Marks


def spans(hit: Hit) -> list[str]:
    return [hit.passage[start:end] for start, end in hit.words]


@settings(max_examples=30)
@given(
    text=st.lists(
        st.sampled_from(["Nurse", "nurses", "the", "C++", "care,", "naïve", "of", "漢字", "\n", "-"]), max_size=40
    )
)
def test_marks_are_whole_words_in_order(encoder: TextEncoder, text: list[str]) -> None:
    posting = Posting("1", "A title", description=" ".join(text) or "empty")
    searcher = Searcher(build(encoder, [posting]), encoder)
    (hit,) = searcher.search(["nurse who knows C++ and the of"], 1)[0]
    assert len(hit.words) <= MOST
    assert all(end <= start for (_, end), (start, _) in pairwise(hit.words))
    whole = {(word.start, word.end) for word in words(hit.passage) if word.term}  # so no stop word either
    assert set(hit.words) <= whole
    marked = {term(word) for word in spans(hit)}
    assert marked >= set(terms(hit.passage)) & {"nurse", "c++"}


def test_a_words_share_is_its_part_of_the_cosine(encoder: TextEncoder) -> None:
    """Mean pooling: the words' states, the stop words' and the special tokens' add up to the encoding."""
    assert encoder.pooling == "mean"
    index = build(encoder, [CODER])
    marker = Marker(encoder, index, Lexical([""]))
    (states,) = marker._states([0])
    passage = index.passages[0]
    tokens = encoder.tokens([passage.embedded])[0]
    before = len(passage.embedded) - len(passage.text)
    for word, state in zip(states.words, states.states, strict=True):
        inside = (tokens.spans[:, 0] >= word.start + before) & (tokens.spans[:, 1] <= word.end + before)
        assert inside.any()
        assert np.allclose(state, tokens.states[inside].sum(0), atol=2e-2, rtol=2e-3)  # halves of floats


def test_marks_do_not_depend_on_what_is_kept(encoder: TextEncoder) -> None:
    index = build(encoder, POSTINGS)
    lexical = Lexical([passage.embedded for passage in index.passages])
    warm, cold = Marker(encoder, index, lexical), Marker(encoder, index, lexical, cache_bytes=0)
    warm.warm()
    cold.warm()
    assert len(warm._kept) == len(index.passages)
    assert not cold._kept
    vector = encoder.embed(["a nurse by night"])[0]
    places = list(range(len(index.passages)))
    assert warm.marks(places, {"nurse"}, vector) == cold.marks(places, {"nurse"}, vector)


# Commands


def hit_of(passage: str, *marked: tuple[int, int]) -> Hit:
    return Hit(Posting("1", "Nurse", "Clinic", "Yerevan", passage), 0.5, passage, marked)


def test_marked_words_on_paper_and_on_a_terminal() -> None:
    hit = hit_of("Care for [bold]patients[/bold]", (0, 4))
    assert shown(1, hit, styled=False).plain == "1. Nurse  0.500  Clinic, Yerevan\n[Care] for [bold]patients[/bold]\n"
    console = Console(force_terminal=True, width=80)
    with console.capture() as captured:
        console.print(shown(1, hit, styled=True))
    assert "\x1b[1mCare\x1b[0m for [bold]patients" in captured.get()


def test_a_posting_cannot_steer_the_terminal() -> None:
    text = shown(1, hit_of("a\x9b31m \u202etxt \u200bb", (0, 1)), styled=False).plain
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "[a] 31m  txt  b" in text


def test_index_and_search_as_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "postings.jsonl"
    rows = [{"Title": each.title, "Company": each.company, "JobDescription": each.description} for each in POSTINGS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = str(tmp_path / "index")
    build_index("tiny", str(file), output, suitability="tiny")
    assert f"3 postings, 3 passages in {output}; searched exactly" in capsys.readouterr().out
    index: Index = load_index(Storage(output))
    assert index.facts["source"] == str(file) and len(index.facts["sha256"]) == 64
    assert index.facts["parts"] == ["suitability"]
    run_search(output, "drive trucks", 1, "bm25", as_json=False)
    assert "1. Truck driver  1.000  Road\n[Drive] [trucks].\n- Keep a log" in capsys.readouterr().out
    run_search(output, "drive trucks", 2, "hybrid", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["hits"][0]["posting"]["title"] == "Truck driver" and len(found["hits"]) == 2
    run_search(output, "violin", 2, "bm25", as_json=False)
    assert "no posting has any of the query's words" in capsys.readouterr().out
    with pytest.raises(UserError, match="query ' ': no text"):
        run_search(output, " ", 2, "hybrid", as_json=False)


@pytest.mark.ray
def test_ray_workers_make_the_same_index(tmp_path: Path) -> None:
    file = tmp_path / "postings.jsonl"
    rows = [{"Title": each.title, "JobDescription": each.description} for each in many()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for workers in (0, 2):
        build_index("tiny", str(file), str(tmp_path / str(workers)), workers)
    alone, together = (load_index(Storage(str(tmp_path / str(workers)))) for workers in (0, 2))
    assert alone.passages == together.passages
    assert np.abs(alone.vectors - together.vectors).max() < 1e-5
