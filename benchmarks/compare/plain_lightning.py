"""Paraphrase with a LightningModule of one's own: python plain_lightning.py ENCODER; train.csv and dev.csv lie here."""

import csv
import json
import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [
            (row["sentence1"], row["sentence2"], float(row["is_duplicate"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]


def collate(some):
    first, second, labels = zip(*some, strict=True)
    found = tokenizer(list(first), list(second), truncation=True, max_length=512, padding=True, return_tensors="pt")
    return {**found, "labels": torch.tensor(labels).long()}


class Paraphrase(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2)

    def training_step(self, batch, _):
        return self.model(**batch).loss

    def validation_step(self, batch, _):
        right = (self.model(**batch).logits.argmax(-1) == batch["labels"]).float()
        self.log("accuracy", right.mean(), batch_size=len(right))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-5, weight_decay=0.0)


pl.seed_everything(11711)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, logger=False, enable_progress_bar=False)
train = DataLoader(rows("train.csv"), 32, shuffle=True, collate_fn=collate)
trainer.fit(module := Paraphrase(), train)
(found,) = trainer.validate(module, DataLoader(rows("dev.csv"), 32, collate_fn=collate), verbose=False)
print(json.dumps({"accuracy": found["accuracy"]}))
