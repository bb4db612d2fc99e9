"""From a file's row to a batch: readers, token tables, samplers, batches."""
