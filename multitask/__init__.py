"""The model and its tasks, in plain PyTorch: nothing here imports Lightning, Ray or transformers."""

__version__ = "0.1.0"
