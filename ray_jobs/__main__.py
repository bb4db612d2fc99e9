"""`python -m ray_jobs train ...` is `minibert train ...`; this form is what `ray job submit` runs."""

from ray_jobs.cli import main

if __name__ == "__main__":
    main()
