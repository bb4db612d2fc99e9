#!/bin/bash
# A placement group that an actor makes is said to go with it: "lifetime: None ... will be deleted once its creator is
# dead" (docstring of ray.util.placement_group). It stays, and keeps its CPUs, when the actor's handle goes out of scope,
# when ray.kill ends it and when its process dies: until the driver ends, or somebody removes it.
# A Ray Train controller makes one: hence its cleaner, which asks the dashboard, and ours in ray_jobs/runners/cluster.py.
# Exits 0 while it is so, 1 once such a group is removed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check ray==2.60.0
cat > try.py <<'PY'
import os
import signal
import sys
import time

import ray
from ray.util.placement_group import placement_group, placement_group_table

SECONDS = 15


@ray.remote(num_cpus=0)
class Maker:
    def make(self):
        self.group = placement_group([{"CPU": 1}])
        ray.get(self.group.ready())
        return os.getpid()


ENDS = {
    "its handle out of scope": lambda maker, pid: None,
    "ray.kill": lambda maker, pid: ray.kill(maker),
    "its process killed": lambda maker, pid: os.kill(pid, signal.SIGKILL),
}
ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
print("ray", ray.__version__)
for number, (end, way) in enumerate(ENDS.items(), start=1):
    maker = Maker.remote()
    pid = ray.get(maker.make.remote())
    way(maker, pid)
    del maker
    time.sleep(SECONDS)
    gone = not os.path.exists(f"/proc/{pid}")
    states = [group["state"] for group in placement_group_table().values()]
    free = ray.available_resources().get("CPU", 0)
    print(f"{end}: actor gone {gone}, groups {states}, CPUs free {free:g} of 3")
    if not gone or states != ["CREATED"] * number or free != 3 - number:
        sys.exit(1)
PY
venv/bin/python try.py
