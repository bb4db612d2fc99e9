"""What predictions are worth: metrics, intervals, dev sets measured over all ranks."""
