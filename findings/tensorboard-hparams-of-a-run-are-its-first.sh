#!/usr/bin/env bash
# The HParams page of TensorBoard keeps the first settings that a run has ever written: a run that is resumed with a
# corrected learning rate, or begun again in the same folder, is listed with the old one for good, beside the metrics of
# the new one. What this project does: multitask/experiment/events.py gives each trial, with its settings, a run of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tensorboard==2.21.0
venv/bin/python -W ignore - <<'PY'
import time

import tensorboard
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, summary_v2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

print("tensorboard", tensorboard.__version__)
for rate, loss in ((0.1, 9.0), (0.01, 0.5)):  # the second attempt mends the first one's rate
    writer = EventFileWriter("runs/one")
    for part in (
        summary_v2.hparams_config_pb([summary_v2.HParam("lr")], [summary_v2.Metric("loss")]),
        summary_v2.hparams_pb({"lr": rate}, trial_id="one"),
        Summary(value=[Summary.Value(tag="loss", simple_value=loss)]),
    ):
        writer.add_event(Event(wall_time=time.time(), step=int(1 / rate), summary=part))
    writer.close()
    time.sleep(1.1)  # so that the files' names follow each other
runs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory("runs")
runs.Reload()
provider = data_provider.MultiplexerDataProvider(runs, "runs")
backend = backend_context.Context(TBContext(data_provider=provider, logdir="runs"))
request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10, allowed_statuses=[0, 1, 2, 3])
(group,) = list_session_groups.Handler(RequestContext(), backend, "", request).run().session_groups
rate, loss = group.hparams["lr"].number_value, group.metric_values[0].value
print(f"the HParams page says: lr {rate:g}, loss {loss:g}; the loss is of lr 0.01")
raise SystemExit((rate, loss) != (0.1, 0.5))
PY
