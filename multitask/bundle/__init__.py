"""A model as one sealed directory: weights, facts, tokenizer."""
