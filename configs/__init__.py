"""Recipes and sweeps in YAML, shipped with the package."""
