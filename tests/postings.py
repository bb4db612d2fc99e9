"""Three postings for tests of the recruiter's search."""

from __future__ import annotations

from multitask.recruit.postings import Posting

NURSE = Posting("1", "Nurse", "Clinic", "Yerevan", "Care for patients by night.", "", "A diploma in nursing.")
DRIVER = Posting("2", "Truck driver", "Road", "Gyumri", "Drive trucks.\n- Keep a log of miles;", "", "A licence.")
CODER = Posting(
    "3", "Programmer", "Soft", "Yerevan", "Write programs in C++ and Java.", "Test them.", "Résumé in English."
)
POSTINGS = [NURSE, DRIVER, CODER]
