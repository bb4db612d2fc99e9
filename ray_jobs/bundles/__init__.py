"""Commands on finished models: evaluate, predict, export, import."""
