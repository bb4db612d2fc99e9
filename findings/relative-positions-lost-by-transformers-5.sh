#!/usr/bin/env bash
# A BERT with relative positions (position_embedding_type: relative_key) that transformers 4 wrote is another model
# under transformers 5, whose BERT has absolute positions alone: config.json keeps its key, the weights of the distances
# are left over, and from_pretrained goes on; its report says that they "can be ignored when loading from different
# task/architecture". What this project does: multitask/model/config.py refuses the key's other values by name.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 4.57.1 5.23.0; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
done
venv-4.57.1/bin/python - <<'PY'
import torch
import transformers
from transformers import BertConfig, BertModel

torch.manual_seed(0)
sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
config = BertConfig(**sizes, max_position_embeddings=64, position_embedding_type="relative_key")
model = BertModel(config).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.add_(0.2 * torch.randn(weight.shape))
    ids = torch.arange(5, 15)[None]
    torch.save(model(input_ids=ids).last_hidden_state, "states.pt")
model.save_pretrained("model")
print("transformers", transformers.__version__, "torch", torch.__version__, "wrote", config.position_embedding_type)
PY
venv-5.23.0/bin/python - <<'PY'
import torch
import transformers
from transformers import AutoModel

model, told = AutoModel.from_pretrained("model", output_loading_info=True)
with torch.no_grad():
    states = model.eval()(input_ids=torch.arange(5, 15)[None]).last_hidden_state
before = torch.load("states.pt", weights_only=True)
difference = float((states - before).abs().max())
print("transformers", transformers.__version__, "config:", getattr(model.config, "position_embedding_type", "no such key"))
print("left over:", sorted(told["unexpected_keys"]))
print("largest difference of a state (their spread is %.2f): %.2f" % (float(before.std()), difference))
raise SystemExit(difference < 1e-3)
PY
