"""A slice of `make bitflips`, drawn by the commit, and what the hits are."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.bitflips.hits import PAGE, Hit, hits
from tests.commit import commit

ROOT = Path(__file__).parents[2]
DATA = bytes(range(1, 256)) * 40


def test_a_hit_changes_what_it_says_and_no_two_are_the_same() -> None:
    found = hits(DATA, b"another run's", "seed", 200)
    contents = [hit.of(DATA, b"another run's") for hit in found]
    assert len(found) == len(set(found)) == len(set(contents)) == 200 and DATA not in contents
    assert found[0] == Hit("swap") and contents[0] == b"another run's"
    for hit, content in islice(zip(found, contents, strict=True), 1, None):
        wrong = [at for at, (one, other) in enumerate(zip(DATA, content, strict=False)) if one != other]
        if hit.how == "flip":
            assert wrong == [hit.place // 8] and (DATA[wrong[0]] ^ content[wrong[0]]).bit_count() == 1
        elif hit.how == "cut":
            assert content == DATA[: hit.place]
        else:
            assert content[hit.place * PAGE :][:PAGE].strip(b"\0") == b"" and len(content) == len(DATA)
    assert {hit.how for hit in found} == {"swap", "flip", "cut", "zero"}


def test_hits_come_again_from_the_seed_and_more_begin_with_the_fewer() -> None:
    assert hits(DATA, b"", "seed", 20) == hits(DATA, b"", "seed", 200)[:20] != hits(DATA, b"", "other", 20)


def test_a_small_file_is_hit_at_each_of_its_places_once() -> None:
    found = hits(b"ab", b"ab", "seed", 200)
    assert sorted(str(hit) for hit in found if hit.how == "flip") == sorted(f"flip {bit}" for bit in range(16))
    assert len(found) == len(set(found)) <= 16 + 2 + 1  # the bits, the lengths, the page


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_few_hits_drawn_by_the_commit_are_made_again_refused_or_without_effect() -> None:
    words = [sys.executable, "-m", "tests.bitflips", "--seed", commit(), "--sample", "20"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
