"""A model at work: encodings, predictions, submission files."""
