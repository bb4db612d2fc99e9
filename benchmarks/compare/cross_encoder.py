"""Paraphrase with a CrossEncoder: python cross_encoder.py ENCODER, where train.csv and dev.csv lie."""

import json
import sys

import numpy as np
from datasets import load_dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

model = CrossEncoder(sys.argv[1], num_labels=1, max_length=512, device="cpu")
data = load_dataset("csv", data_files={"train": "train.csv", "dev": "dev.csv"}, delimiter="\t")
data = data.select_columns(["sentence1", "sentence2", "is_duplicate"]).rename_column("is_duplicate", "label")
arguments = CrossEncoderTrainingArguments(
    "out", num_train_epochs=1, per_device_train_batch_size=32, learning_rate=5e-5, lr_scheduler_type="constant",
    save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=11711,
)  # fmt: skip
CrossEncoderTrainer(model, arguments, train_dataset=data["train"], loss=BinaryCrossEntropyLoss(model)).train()
model.save_pretrained("out/model")
pairs = list(zip(data["dev"]["sentence1"], data["dev"]["sentence2"], strict=True))
found = model.predict(pairs, batch_size=32) > 0.5
print(json.dumps({"accuracy": float(np.mean(found == np.array(data["dev"]["label"], bool)))}))
