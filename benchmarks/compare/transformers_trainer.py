"""Paraphrase with transformers' Trainer: python transformers_trainer.py ENCODER; train.csv and dev.csv lie here."""

import json
import sys

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2)
data = load_dataset("csv", data_files={"train": "train.csv", "dev": "dev.csv"}, delimiter="\t")


def prepare(rows):
    found = tokenizer(rows["sentence1"], rows["sentence2"], truncation=True, max_length=512)
    return {**found, "labels": [int(label) for label in rows["is_duplicate"]]}


data = data.map(prepare, batched=True, remove_columns=data["train"].column_names)
arguments = TrainingArguments(
    "out", num_train_epochs=1, per_device_train_batch_size=32, per_device_eval_batch_size=32, learning_rate=5e-5,
    lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=11711,
)  # fmt: skip


def accuracy(found):
    return {"accuracy": float((np.argmax(found.predictions, -1) == found.label_ids).mean())}


trainer = Trainer(
    model, arguments, train_dataset=data["train"], eval_dataset=data["dev"],
    data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
trainer.save_model("out/model")
print(json.dumps({"accuracy": trainer.evaluate()["eval_accuracy"]}))
