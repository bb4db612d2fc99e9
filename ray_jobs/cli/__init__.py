"""The command line: a module for each family of commands."""

from ray_jobs.cli.program import app, main

__all__ = ["app", "main"]
