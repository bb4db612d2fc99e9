"""The LightningModule around a stage's objective, the data module, callbacks, and the Trainer they run under."""
