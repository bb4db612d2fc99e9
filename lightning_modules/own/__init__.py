"""A user's own code in a stage that Lightning runs."""
