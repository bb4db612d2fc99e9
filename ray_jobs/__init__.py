"""What one runs: the command line, training, evaluation, prediction. The only place that imports Ray."""
