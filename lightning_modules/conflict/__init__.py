"""Tasks that pull the encoder different ways: their gradients measured, and changed before the optimizer steps."""
