"""One LightningModule a stage objective, the data module, callbacks, and the Trainer they run under."""
