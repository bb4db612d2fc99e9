"""The experiment's driver: its plan, what it prepares, its stages in turn, and what came of them."""
