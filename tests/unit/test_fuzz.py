"""What was found by fuzzing stays mended, and a short, repeatable slice of it (`make fuzz` is the long one)."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multitask.errors import UserError
from tests.fuzz.targets import CORPUS, TARGETS

FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
# Of each target; those that write a bundle or run a command are slower.
EXAMPLES = {name: 40 if target.inputs <= 5_000 else 400 for name, target in TARGETS.items()}
MEMORY = 1_500_000  # kilobytes more than before


def take(name: str, data: bytes) -> None:
    try:
        TARGETS[name].run(data)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_a_finding_stays_mended(file: Path) -> None:
    take(file.parent.name, file.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_and_what_is_left_of_them_are_taken_or_refused(name: str) -> None:
    """Seeds as they are, cut short, and with pieces of themselves or of anything in them."""
    seeds = TARGETS[name].seeds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=EXAMPLES[name], suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), st.data())
    def try_some(seed: bytes, data: st.DataObject) -> None:
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(seed))] * 2)))
        piece = data.draw(st.one_of(st.binary(max_size=40), st.just(seed[at:end] * 3), st.just(b"")))
        take(name, seed[:at] + piece + seed[end:])

    for seed in seeds:
        take(name, seed)
    try_some()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
