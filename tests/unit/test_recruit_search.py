"""An index as files, search by words and by meaning, and their commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multitask.bundle.bundle import save_bundle
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.recruit.index import Index, build, load_index, save_index, words_within
from multitask.recruit.passages import pieces
from multitask.recruit.postings import Posting
from multitask.recruit.search import MODES, Searcher
from multitask.storage.storage import Storage
from ray_jobs.recruit.search import IndexRequest, build_index, run_search
from ray_jobs.screen import Screen
from tests.helpers import tiny
from tests.postings import NURSE, POSTINGS


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tiny())


@pytest.fixture(scope="module")
def searcher(encoder: TextEncoder) -> Searcher:
    return Searcher(build(encoder, POSTINGS), encoder)


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


def test_an_index_with_another_bundle_in_it_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "index"))
    save_index(storage, build(encoder, POSTINGS), tiny(), {"suitability": tiny()})
    assert "bundles" not in load_index(storage).facts
    save_bundle(storage, "suitability", replace(tiny(), about={"trainer": "another"}))
    with pytest.raises(
        UserError, match=r"damaged: suitability/manifest.json: of another bundle than the index was made with"
    ):
        load_index(storage)
    storage.remove("suitability")
    with pytest.raises(UserError, match=r"index '.*': damaged: .*suitability/manifest\.json"):
        load_index(storage)


def test_nothing_but_an_index_is_replaced(encoder: TextEncoder, tmp_path: Path) -> None:
    index, storage = build(encoder, POSTINGS), Storage(str(tmp_path / "index"))
    save_index(storage, index, tiny(), {"suitability": tiny()})
    save_index(storage, build(encoder, POSTINGS[:1]), tiny(), {})
    assert len(load_index(storage).postings) == 1
    assert "suitability" not in storage.list()
    storage.remove("manifest.json")  # as if the last time had been interrupted
    (tmp_path / "index" / ".tmpab12cd").touch()  # safetensors' draft of the vectors, and one of ours
    (tmp_path / "index" / ".manifest.json.0123abcd.part").touch()
    save_index(storage, index, tiny(), {})
    assert not [name for name in storage.list() if name.startswith(".")]
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
    words_a_piece = words_within(encoder.max_length, 300)
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


# Commands


def test_index_and_search_as_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "postings.jsonl"
    rows = [{"Title": each.title, "Company": each.company, "JobDescription": each.description} for each in POSTINGS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = str(tmp_path / "index")
    build_index(IndexRequest("tiny", str(file), output, suitability="tiny"), Screen())
    assert f"3 postings, 3 passages in {output}; searched exactly" in capsys.readouterr().out
    index: Index = load_index(Storage(output))
    assert index.facts["source"] == str(file) and len(index.facts["sha256"]) == 64
    assert index.facts["parts"] == ["suitability"]
    run_search(output, "drive trucks", 1, "bm25", screen=Screen())
    assert "1. Truck driver  1.000  Road\n[Drive] [trucks].\n- Keep a log" in capsys.readouterr().out
    run_search(output, "drive trucks", 2, "hybrid", screen=Screen(as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["hits"][0]["posting"]["title"] == "Truck driver" and len(found["hits"]) == 2
    run_search(output, "violin", 2, "bm25", screen=Screen())
    assert "no posting has any of the query's words" in capsys.readouterr().out
    with pytest.raises(UserError, match="query ' ': no text"):
        run_search(output, " ", 2, "hybrid", screen=Screen())


@pytest.mark.ray
def test_ray_workers_make_the_same_index(tmp_path: Path) -> None:
    file = tmp_path / "postings.jsonl"
    rows = [{"Title": each.title, "JobDescription": each.description} for each in many()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for workers in (0, 2):
        build_index(IndexRequest("tiny", str(file), str(tmp_path / str(workers)), workers), Screen())
    alone, together = (load_index(Storage(str(tmp_path / str(workers)))) for workers in (0, 2))
    assert alone.passages == together.passages
    assert np.abs(alone.vectors - together.vectors).max() < 1e-5
