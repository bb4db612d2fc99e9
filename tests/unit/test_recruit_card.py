"""The model card: what a reader must find in it."""

from __future__ import annotations

from multitask.recruit.card import NO_AUDIT, NOT_FOR, recruiter_card

ABOUT = {"recipe": "all", "stage": "suitability", "trainer": "TorchTrainer_1", "tasks": ["suitability"],
         "notes": {"suitability": "weak labels", "jobs": "another stage's"}}  # fmt: skip
DATA = [{"task": "suitability", "split": "dev", "rows": 100, "sha256": "abc"}]
MEASURED = [
    {"metric": "pearson (weak labels)", "value": 0.41234, "interval": (0.3, 0.5), "rows": 100},
    {"metric": "auc", "value": None, "interval": None, "rows": 100, "why": "one side | alone"},
]
FINDINGS = [
    {"what": "impact ratio", "group": "gender: female", "value": 0.7, "interval": (0.6, 0.8), "bound": ">= 0.8",
     "verdict": "broken"},
    {"what": "impact ratio", "group": "gender: male", "value": 1.0, "interval": None, "bound": ">= 0.8",
     "verdict": "ok"},
]  # fmt: skip


def test_says_what_it_is_worth_and_what_it_is_not_for() -> None:
    text = recruiter_card(ABOUT, DATA, MEASURED, FINDINGS)
    assert text.startswith("# all/suitability\n")
    assert "| pearson (weak labels) | 0.412 | 0.300 .. 0.500 | 100 |" in text
    assert "| auc | undefined: one side \\| alone |" in text
    assert "Labels. suitability: weak labels" in text and "another stage's" not in text
    assert "| suitability | dev | 100 | abc |" in text
    assert "| impact ratio | gender: female | 0.700 | 0.600 .. 0.800 | >= 0.8 | broken |" in text
    assert "1 of 2 findings break their bound." in text and NO_AUDIT not in text
    assert all(line in text for line in NOT_FOR)


def test_a_bundle_that_was_not_audited_says_so() -> None:
    assert NO_AUDIT in recruiter_card({}, DATA, MEASURED, None)


def test_an_audit_without_a_broken_bound_says_so() -> None:
    assert "No bound was broken." in recruiter_card(ABOUT, DATA, MEASURED, FINDINGS[1:])
