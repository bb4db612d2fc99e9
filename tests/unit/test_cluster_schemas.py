"""cluster/gcp.yaml and kuberay.yaml against the schemas of those who read them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text()))


def compute_schema() -> dict[str, Any]:
    """Google's own description of its Compute API, as their client brings it."""
    reason = "needs google-api-python-client, which carries the Compute API's schema"
    discovery = pytest.importorskip("googleapiclient.discovery_cache", reason=reason)
    return dict(json.loads(discovery.get_static_doc("compute", "v1"))["schemas"])


def unknown_to(schemas: dict[str, Any], schema: dict[str, Any], value: Any, at: str) -> list[str]:
    """The places where a value is not what Google's discovery schema says."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if "properties" in schema:
        if not isinstance(value, dict):
            return [f"{at}: an object"]
        wrong = [f"{at}.{key}: unknown" for key in value if key not in schema["properties"]]
        parts = [(schema["properties"][key], part, f"{at}.{key}") for key, part in value.items() if not wrong]
    elif schema["type"] == "array":
        if not isinstance(value, list):
            return [f"{at}: a list"]
        wrong, parts = [], [(schema["items"], part, f"{at}[{number}]") for number, part in enumerate(value)]
    else:
        kinds = {"string": (str, int), "integer": int, "boolean": bool}  # of 64-bit numbers, strings are sent
        fits = isinstance(value, kinds[schema["type"]]) and value in schema.get("enum", [value])
        return [] if fits else [f"{at}: {value!r} is not {schema.get('enum', schema['type'])}"]
    return wrong + [line for part in parts for line in unknown_to(schemas, *part)]


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_gcps_nodes_are_what_googles_api_takes(kind: str) -> None:
    schemas = compute_schema()
    node = documents("gcp.yaml")[0]["available_node_types"][kind]["node_config"]
    assert unknown_to(schemas, {"$ref": "Instance"}, node, kind) == []
    node["scheduling"] = [{"preemptible": True}]
    assert unknown_to(schemas, {"$ref": "Instance"}, node, kind) == [f"{kind}.scheduling: an object"]


# Fields that kuberay.yaml uses, with their types, as KubeRay 1.6.2's API reference has them; of pods, Kubernetes' own
# client knows them all.
POD = "V1PodTemplateSpec"
GROUP: dict[str, Any] = {"rayStartParams": {str: str}, "template": POD}
WORKERS = GROUP | {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
KUBERAY: dict[str, Any] = {
    "RayCluster": {
        "rayVersion": str,
        "authOptions": {"mode": {"disabled", "token"}, "secretName": str},
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": {"idleTimeoutSeconds": int},
        "headGroupSpec": GROUP | {"serviceType": {"ClusterIP", "NodePort", "LoadBalancer"}},
        "workerGroupSpecs": [WORKERS],
    },
    "RayJob": {
        "clusterSelector": {str: str},
        "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "entrypoint": str,
        "runtimeEnvYAML": str,
    },
}


def misfits(form: Any, value: Any, at: str) -> list[str]:
    """The places where a value is not of the form."""
    if form == POD:
        return pod_misfits(value, POD, at)
    if isinstance(form, set):
        return [] if value in form else [f"{at}: {value!r}"]
    if isinstance(form, list):
        return [line for number, part in enumerate(value) for line in misfits(form[0], part, f"{at}[{number}]")]
    if form == {str: str}:
        return [] if all(isinstance(word, str) for pair in value.items() for word in pair) else [f"{at}: {value!r}"]
    if isinstance(form, dict):
        unknown = [f"{at}.{key}: unknown" for key in value if key not in form]
        return unknown or [line for key, part in value.items() for line in misfits(form[key], part, f"{at}.{key}")]
    return [] if type(value) is form else [f"{at}: {value!r} is not {form.__name__}"]


def pod_misfits(value: Any, kind: str, at: str) -> list[str]:
    """Fields that Kubernetes' client does not know. kind: as the client writes it, such as List[V1Container]."""
    models = pytest.importorskip("kubernetes.client.models", reason="needs kubernetes, the client, for pods' fields")
    if many := re.fullmatch(r"[Ll]ist\[(\w+)\]", kind):
        return [line for number, part in enumerate(value) for line in pod_misfits(part, many[1], f"{at}[{number}]")]
    model = getattr(models, kind, None)
    if model is None:
        return [f"{at}: {value!r} is not str"] if kind == "str" and not isinstance(value, str) else []
    kinds = {key: model.openapi_types[name] for name, key in model.attribute_map.items()}
    unknown = [f"{at}.{key}: unknown" for key in value if key not in kinds]
    return unknown or [line for key, part in value.items() for line in pod_misfits(part, kinds[key], f"{at}.{key}")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KUBERAY)
def test_kuberays_fields_are_known_to_it(kind: str) -> None:
    (document,) = [document for document in documents("kuberay.yaml") if document["kind"] == kind]
    assert document["apiVersion"] == "ray.io/v1"
    assert misfits(KUBERAY[kind], document["spec"], kind) == []


def test_a_slip_in_a_pod_would_be_found() -> None:
    (cluster, *_) = documents("kuberay.yaml")
    container = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["lifecycle"]["prestop"] = container["lifecycle"].pop("preStop")
    found = misfits(KUBERAY["RayCluster"], cluster["spec"], "RayCluster")
    assert found == ["RayCluster.workerGroupSpecs[0].template.spec.containers[0].lifecycle.prestop: unknown"]
