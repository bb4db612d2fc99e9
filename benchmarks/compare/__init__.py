"""One task, done by several tools: the scripts that docs/compare.md counts and measures."""
