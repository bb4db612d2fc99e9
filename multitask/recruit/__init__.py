"""BERT as a Recruiter: search, role completion, suitability, and care for the people judged (bertaar.txt, 4.4, 9)."""
