"""MLflow and Weights & Biases beside TensorBoard: what an experiment has told, sent on to who else keeps it."""
