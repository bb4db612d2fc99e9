"""What an experiment leaves in its storage, and who may write it."""
