"""What an experiment is to be: stages and their settings, read from YAML and checked."""
