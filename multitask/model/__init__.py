"""miniBERT from scratch (bert.py), its heads (heads.py) and where weights come from (sources.py)."""
