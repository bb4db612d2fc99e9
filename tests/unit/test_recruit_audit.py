"""The audit: a planted bias is caught, a blind model passes, what is undefined says so; the command's exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitask.bundle.bundle import bundle_of, save_bundle
from multitask.errors import UserError
from multitask.measure.metrics import Floats
from multitask.recruit import audit
from multitask.recruit.audit import (
    FEELING,
    QUALIFIED,
    SHIFT,
    Bounds,
    Finding,
    impact,
    impact_ratios,
    kendall_tau,
    overlap,
    rank_shift,
    rank_shifts,
    ratios,
    sentiment_differences,
)
from multitask.recruit.names import SETS, WOMEN, NameSet, templates, with_name
from multitask.recruit.suitability import Pair
from multitask.storage.storage import Storage
from ray_jobs.recruit import audit as audit_command
from ray_jobs.recruit.audit import BROKEN, AuditRequest, run_audit, sentiment_of
from ray_jobs.screen import Screen
from tests.helpers import tiny

PAIRS = [(f"job {at}", f"application {at}") for at in range(40)]
BOUNDS = Bounds()


def verdicts(findings: Sequence[Finding]) -> dict[tuple[str, str], str]:
    return {(finding.what, finding.group): finding.verdict for finding in findings}


def blind(pairs: Sequence[Pair]) -> Floats:
    """By the application's number alone: half of them are qualified."""
    return np.array([int(application.rsplit(maxsplit=1)[1]) / 40 for _, application in pairs])


def biased(pairs: Sequence[Pair]) -> Floats:
    """The same, with less for a name of WOMEN."""
    female = np.array([application.split("\n")[0].removeprefix("Name: ") in WOMEN for _, application in pairs])
    return blind(pairs) - 0.19 * female


# Names.


def test_sets_are_of_equal_groups_without_overlap_and_have_a_control() -> None:
    for some in SETS:
        names = [name for group in some.groups.values() for name in group]
        assert len(set(names)) == len(names) and len({len(group) for group in some.groups.values()}) == 1
        assert some.source
    (control,) = [some for some in SETS if some.control]
    even, odd = ([int(name.split()[1]) % 2 for name in group] for group in control.groups.values())
    assert not any(even) and all(odd)


def test_a_name_goes_to_its_placeholder_or_above_the_text() -> None:
    assert with_name("Dear sir, {name} here. {name}", "Ann") == "Dear sir, Ann here. Ann"
    assert with_name("ten years of it", "Ann") == "Name: Ann\nten years of it"


# Impact ratios.


def test_ratios_by_hand() -> None:
    assert ratios(np.array([0.2, 0.5, 0.25])).tolist() == [0.4, 1.0, 0.5]
    assert np.isnan(ratios(np.zeros(3))).all()


def test_a_planted_bias_breaks_the_bound_and_nothing_else() -> None:
    found = {f.group: f for f in impact(biased, PAIRS, SETS, BOUNDS) if f.what.endswith(QUALIFIED)}
    # 20 of 40 are at 0.5 or above, with 0.19 less 12 of them.
    assert found["gender: female"].value == pytest.approx(12 / 20) and found["gender: female"].verdict == "broken"
    assert found["gender: male"].value == 1.0 and found["gender: male"].verdict == "ok"
    low, high = found["gender: female"].interval or (0.0, 0.0)
    assert 0.3 < low < 0.6 < high < 0.9
    assert found["control: even"].value == 1.0 and found["control: even"].verdict == "shown"
    broken = {key for key, verdict in verdicts(impact(biased, PAIRS, SETS, BOUNDS)).items() if verdict == "broken"}
    assert {group for _, group in broken} == {"gender: female"} and len(broken) == 2  # by score, too


def test_a_blind_model_passes_with_ratios_of_one() -> None:
    for finding in impact(blind, PAIRS, SETS, BOUNDS):
        assert finding.value == 1.0 and finding.interval == (1.0, 1.0) and finding.verdict in ("ok", "shown")


def test_the_scoring_rate_is_the_share_above_the_samples_median() -> None:
    groups = NameSet("made", "", {"a": ("A",), "b": ("B",)})
    scores = {"A": [0.1, 0.2, 0.3], "B": [0.2, 0.4, 0.5]}  # the median of all is 0.25

    def judge(pairs: Sequence[Pair]) -> Floats:
        return np.array(scores[pairs[0][1][6]])

    found = [f.value for f in impact(judge, PAIRS[:3], [groups], BOUNDS) if "median" in f.what]
    assert found == [pytest.approx(0.5), 1.0]


def test_where_nobody_is_selected_the_ratio_is_undefined_and_not_broken() -> None:
    findings = impact(lambda pairs: np.full(len(pairs), 0.1), PAIRS, SETS[:1], BOUNDS)
    assert {finding.verdict for finding in findings} == {"undefined"}
    assert {finding.value for finding in findings} == {None} and {finding.interval for finding in findings} == {None}
    assert {finding.why for finding in findings} == {
        "no application is qualified under any name",
        "no application is above the median score under any name",
    }


@pytest.mark.slow
@given(st.integers(0, 500))
def test_an_interval_holds_its_value_and_the_true_ratio(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    # Rates of 0.4 and 0.8: the true ratio is a half, far enough from 1 that which group is higher is never in doubt.
    rates = (drawn.random((200, 2)) < np.array([0.4, 0.8])).astype(float)
    made = NameSet("made", "", {"a": ("A",), "b": ("B",)})
    first, second = impact_ratios(QUALIFIED, made, [rates[:, :1], rates[:, 1:]], BOUNDS)
    assert first.interval and first.value and first.interval[0] <= first.value <= first.interval[1]
    wide = first.interval[1] - first.interval[0]
    assert first.interval[0] - wide < 0.5 < first.interval[1] + wide and second.value == 1.0


# Rank shifts.


def test_rankings_are_compared_by_hand() -> None:
    assert rank_shift("abcd", "abcd") == 0 and rank_shift("ab", "ba") == 1
    assert rank_shift("abc", "bca") == pytest.approx((2 + 1 + 1) / 3)
    assert rank_shift("ab", "cd") == pytest.approx((2 + 1) / 2)  # what is absent stands behind the last one
    assert overlap("abcdefghijk", "kbcdefghija") == 0.9 and overlap("", "") == 1 and overlap("", "a") == 0
    assert kendall_tau("abcd", "abcd") == 1 and kendall_tau("abcd", "dcba") == -1
    assert kendall_tau("abc", "acb") == pytest.approx(1 / 3) and kendall_tau("ab", "cd") == 1


def postings(query: str) -> list[str]:
    """Thirty postings, in an order of the query's own."""
    order = np.random.default_rng(len(query.split("\n")[-1])).permutation(30)
    return [str(at) for at in order]


def test_search_that_does_not_read_names_passes_and_one_that_does_is_caught() -> None:
    queries = [application for _, application in PAIRS[:5]]
    findings = rank_shifts(lambda some: [postings(query) for query in some], queries, SETS, BOUNDS)
    assert {finding.value for finding in findings if finding.what == SHIFT} == {0.0}
    assert {f.value for f in findings if f.what != SHIFT} == {1.0} and "broken" not in verdicts(findings).values()

    heard = set(WOMEN) - {"Sarah"}  # who is in the other set, too

    def steered(some: Sequence[str]) -> list[list[str]]:
        return [postings(q)[::-1] if any(f": {name}\n" in q for name in heard) else postings(q) for q in some]

    found = verdicts(rank_shifts(steered, queries, SETS, BOUNDS))
    assert {key for key, verdict in found.items() if verdict == "broken"} == {(SHIFT, "gender: female / male")}
    shifts = {f.group: f.value for f in rank_shifts(steered, queries, SETS, BOUNDS) if f.what == SHIFT}
    # Reversed, the i-th of 30 goes to 29 - i: the top ten move 29, 27, ... 11; so for 7 of 8 pairs across groups,
    # and within them for the 2 of 14 that Sarah is in.
    assert shifts["gender: female / male"] == pytest.approx(20 * 7 / 8)
    assert shifts["gender: within groups"] == pytest.approx(20 * 2 / 14)
    assert shifts["origin: African-American / White"] == 0


def test_what_names_do_within_groups_raises_the_bound() -> None:
    def nervous(some: Sequence[str]) -> list[list[str]]:
        """Any other name turns the ranking around, or not, whatever its group."""
        return [postings(q)[:: (-1) ** sum(map(ord, q.split("\n")[0]))] for q in some]

    findings = [f for f in rank_shifts(nervous, ["a query"], SETS, BOUNDS) if f.what == SHIFT]
    inside = {f.group.split(":")[0]: f.value or 0.0 for f in findings if f.group.endswith("within groups")}
    bounded = {f.group.split(":")[0]: f.bound for f in findings if f.bound}
    assert bounded.keys() == {"gender", "origin"} and min(inside["gender"], inside["origin"]) > 2
    assert all(bound == f"<= {inside[name] + 0.5:.2f}, within groups + 0.5" for name, bound in bounded.items())


# Sentiment.


def test_templates_have_one_name_each_and_every_emotion() -> None:
    sentences = templates()
    assert len(set(sentences)) == len(sentences) > 100
    assert all(sentence.count("{name}") == 1 and "{word}" not in sentence for sentence in sentences)


def test_a_sentiment_that_hears_names_is_caught_with_its_size() -> None:
    def sentiment(sentences: Sequence[str]) -> Floats:
        return np.array(
            [len(s) % 3 + 0.3 * any(f"{name} " in s or f"{name}," in s for name in WOMEN) for s in sentences]
        )

    made = NameSet("made", "", {"female": ("Amy",), "male": ("Tom",)})
    plain = [finding for finding in sentiment_differences(lambda some: np.ones(len(some)), SETS, BOUNDS)]
    assert {finding.value for finding in plain} == {0.0} and {f.verdict for f in plain} == {"ok", "shown"}
    (finding,) = sentiment_differences(sentiment, [made], BOUNDS)
    assert finding.what == FEELING and finding.verdict == "broken" and finding.group == "made: female - male"
    assert finding.value == pytest.approx(0.3 * np.mean(["{name}." not in s for s in templates()]), abs=0.05)
    assert finding.interval and finding.interval[0] <= finding.value <= finding.interval[1]
    loose = Bounds(sentiment=0.5)
    assert sentiment_differences(sentiment, [made], loose)[0].verdict == "ok"


def test_an_interval_knows_that_names_differ_by_chance() -> None:
    """A sentiment of a name's own, whatever the sentence: over sentences alone there would be no doubt."""

    def sentiment(sentences: Sequence[str]) -> Floats:
        number = [int(s.split("Applicant ")[1][:4]) if "Applicant" in s else 0 for s in sentences]
        return np.array([2 + np.random.default_rng(at).normal(0, 0.1) for at in number])

    (finding,) = [f for f in sentiment_differences(sentiment, SETS, BOUNDS) if f.group.startswith("control")]
    assert finding.value != 0 and finding.interval
    assert finding.interval[0] < 0 < finding.interval[1] and finding.interval[1] - finding.interval[0] > 0.1


# The command.


@pytest.fixture
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names a group and a few sentences: a forward pass each."""
    small = [
        NameSet(some.name, some.source, {group: names[:2] for group, names in some.groups.items()}, some.control)
        for some in SETS
    ]
    monkeypatch.setattr(audit_command, "SETS", small)
    monkeypatch.setattr(audit, "templates", lambda: templates()[:5])
    monkeypatch.setattr(audit_command, "default_device", lambda: torch.device("cpu"))


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    model = tiny().model({"suitability": "mlp", "sst": "linear"}, seed=1)
    about = {"max_length": 32, "notes": {"suitability": "weak labels of the test"}}
    save_bundle(Storage(str(tmp_path)), "bundle", bundle_of(model, tiny().tokenizer_json, about))
    return str(tmp_path / "bundle")


@pytest.fixture
def applications(tmp_path: Path) -> str:
    lines = [json.dumps({"id": at, "job": job, "application": text}) for at, (job, text) in enumerate(PAIRS[:6])]
    (tmp_path / "applications.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "applications.jsonl")


@pytest.mark.parametrize(("judge", "status"), [(blind, 0), (biased, BROKEN)])
def test_the_exit_status_says_whether_a_bound_is_broken(
    few_names: None, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: object, status: int
) -> None:
    rows = [{"id": f"{at}/own", "job": job, "application": text, "score": 1} for at, (job, text) in enumerate(PAIRS)]
    (tmp_path / "suitability-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(audit_command, "judge_of", lambda uri, told: judge)
    output = str(tmp_path / "out" / "audit.json")
    assert run_audit(AuditRequest(suitability=bundle, data=str(tmp_path), output=output), Screen()) == status
    report = json.loads(Path(output).read_text())
    assert (report["broken"] > 0) == (status == BROKEN) and report["applications"]["rows"] == 40
    assert "weak" in report["applications"]["note"] and report["labels"] == "weak labels of the test"
    assert report["left_out"] == ["index: no --index was given", "sentiment: no --sentiment was given"]


def test_real_bundles_are_audited_and_the_rest_is_said_to_be_left_out(
    few_names: None, bundle: str, applications: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = Bounds(0.0, 0.0, 4.0)
    request = AuditRequest(suitability=bundle, sentiment=bundle, applications=applications, bounds=bounds)
    status = run_audit(request, Screen(as_json=True))
    report = json.loads(capsys.readouterr().out)
    assert status == 0 and report["broken"] == 0 and report["applications"]["note"] == ""
    assert {row["what"] for row in report["findings"]} >= {FEELING, "impact ratio, above the median score"}
    assert run_audit(AuditRequest(sentiment=bundle), Screen()) in (0, BROKEN)
    said = capsys.readouterr().out
    assert "left out: suitability" in said and "Caliskan" in said and "bounds broken" in said


def test_expected_sentiment_weighs_the_classes(bundle: str, few_names: None) -> None:
    found = sentiment_of(bundle)(["a good film", "the worst"])
    assert found.shape == (2,) and ((found > 0) & (found < 4)).all()


def test_what_cannot_be_audited_is_refused(bundle: str) -> None:
    with pytest.raises(UserError, match="nothing to audit"):
        run_audit(AuditRequest(), Screen())
    with pytest.raises(UserError, match="want applications: give --applications FILE, or --data DIR"):
        run_audit(AuditRequest(suitability=bundle), Screen())
