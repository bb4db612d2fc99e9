"""`ray up cluster/aws.yaml` as far as it asks AWS: Ray's own provider and boto3 against moto, with the roles of
cluster/aws-roles.yaml. What EC2 itself would refuse, moto may not."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # moto's list of instance types alone takes ten seconds
BUCKET = "a-bucket"
MOST_WORKERS = 6
SSH_FROM_ANYWHERE = {("tcp", 22, 22, "0.0.0.0/0")}


class Launch:
    """An account of its own, the roles in it, and the cluster as Ray launches it: a head and as many workers as it may.

    calls: what Ray asked of EC2 while it started and ended nodes, which the head does with its role alone.
    """

    def __init__(self) -> None:
        import boto3

        config = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
        self.region, self.calls = config["provider"]["region"], set[str]()
        session = boto3.Session(region_name=self.region)
        self.ec2, self.iam = session.client("ec2"), session.client("iam")
        self.formation = session.client("cloudformation")
        self.formation.create_stack(
            StackName="minibert",
            TemplateBody=(ROOT / "cluster" / "aws-roles.yaml").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": BUCKET}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        self.config = self._bootstrap(config)
        self._start()

    def _bootstrap(self, config: dict[str, Any]) -> dict[str, Any]:
        """What `ray up` does before it starts a node."""
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config, validate_config

        config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(config))
        validate_config(config)
        return AWSNodeProvider.bootstrap_config(config)

    def _start(self) -> None:
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME
        from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE as TYPE

        self.provider = AWSNodeProvider(self.config["provider"], self.config["cluster_name"])
        events = self.provider.ec2.meta.client.meta.events, self.provider.ec2_fail_fast.meta.client.meta.events
        for at in events:
            at.register("before-call.ec2", lambda model, **_: self.calls.add(f"ec2:{model.name}"))
        for kind, ray_kind, count in (("head", "head", 1), ("worker", "worker", MOST_WORKERS)):
            node = self.config["available_node_types"][kind]["node_config"]
            tags = {TAG_RAY_NODE_KIND: ray_kind, TYPE: kind, TAG_RAY_NODE_NAME: f"ray-minibert-{kind}"}
            while (
                missing := count - len(self.provider.non_terminated_nodes({TYPE: kind}))
            ) > 0:  # moto gives one of "one to six", as EC2 may
                self.provider.create_node(node, tags | {TAG_RAY_LAUNCH_CONFIG: "x"}, missing)
        node, *_ = self.provider.non_terminated_nodes({})
        self.provider.set_node_tags(node, {"ray-node-status": "up-to-date"})

    def nodes(self, kind: str) -> list[dict[str, Any]]:
        """The instances of a node type that cost something."""
        filters = [
            {"Name": "tag:ray-user-node-type", "Values": [kind]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
        ]
        found = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [instance for reservation in found for instance in reservation["Instances"]]

    def policies(self, role: str) -> list[dict[str, Any]]:
        """The statements of a role's policies."""
        found = []
        for name in self.iam.list_role_policies(RoleName=role)["PolicyNames"]:
            found.append(self.iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        for attached in self.iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            version = self.iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
            got = self.iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)
            found.append(got["PolicyVersion"]["Document"])
        read = [yaml.safe_load(document) if isinstance(document, str) else document for document in found]
        return [statement for document in read for statement in document["Statement"]]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    from moto import mock_aws
    from ray.autoscaler._private.aws import utils

    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for cache in (utils.resource_cache, utils.client_cache):
            cache.cache_clear()  # clients that other tests made are not moto's
        yield Launch()
        for cache in (utils.resource_cache, utils.client_cache):
            cache.cache_clear()


def actions(statements: list[dict[str, Any]]) -> list[str]:
    found = [statement["Action"] for statement in statements if statement["Effect"] == "Allow"]
    return [name for names in found for name in ([names] if isinstance(names, str) else names)]


def test_a_head_and_spot_workers_start_as_the_file_says(launch: Launch) -> None:
    (head,), workers = launch.nodes("head"), launch.nodes("worker")
    assert head["InstanceType"] == "m5.large" and "InstanceLifecycle" not in head
    assert len(workers) == MOST_WORKERS
    assert {(node["InstanceType"], node["InstanceLifecycle"]) for node in workers} == {("g4dn.xlarge", "spot")}
    assert {node["ImageId"] for node in (head, *workers)} == {head["ImageId"]}
    for node in (head, *workers):
        assert {"Key": "ray-cluster-name", "Value": "minibert"} in node["Tags"]
        assert node["Placement"]["AvailabilityZone"] == launch.config["provider"]["availability_zone"]
        assert node["MetadataOptions"]["HttpTokens"] == "required"


def test_ray_knows_what_the_nodes_have(launch: Launch) -> None:
    types = launch.config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0 and "GPU" not in types["head"]["resources"]
    assert types["worker"]["resources"].items() >= {"CPU": 4, "GPU": 1, "accelerator_type:T4": 1}.items()


def test_nodes_have_a_role_each_and_no_keys(launch: Launch) -> None:
    (head,), workers = launch.nodes("head"), launch.nodes("worker")
    profiles = {
        name: launch.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        for name in ("minibert-head", "minibert-worker")
    }
    assert head["IamInstanceProfile"]["Arn"] == profiles["minibert-head"]["Arn"]
    assert {node["IamInstanceProfile"]["Arn"] for node in workers} == {profiles["minibert-worker"]["Arn"]}
    for name, profile in profiles.items():
        assert [role["RoleName"] for role in profile["Roles"]] == [name]


def test_the_security_group_lets_in_ssh_and_itself_alone(launch: Launch) -> None:
    groups = {
        group["GroupId"]
        for kind in ("head", "worker")
        for node in launch.nodes(kind)
        for group in node["SecurityGroups"]
    }
    (group,) = launch.ec2.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert group["GroupName"] == "ray-autoscaler-minibert"
    from_addresses, from_groups = set(), set()
    for rule in group["IpPermissions"]:
        span = rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort")
        from_addresses |= {(*span, place["CidrIp"]) for place in rule["IpRanges"]}
        from_groups |= {(rule["IpProtocol"], pair["GroupId"]) for pair in rule["UserIdGroupPairs"]}
        assert not rule.get("Ipv6Ranges") and not rule.get("PrefixListIds")
    assert from_addresses == SSH_FROM_ANYWHERE
    assert from_groups == {("-1", group["GroupId"])}


def test_an_ingress_that_the_user_narrowed_stays_so(launch: Launch) -> None:
    (group,) = launch.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["ray-autoscaler-minibert"]}]
    )["SecurityGroups"]
    ssh = {"GroupId": group["GroupId"], "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    launch.ec2.revoke_security_group_ingress(**ssh, CidrIp="0.0.0.0/0")
    launch.ec2.authorize_security_group_ingress(**ssh, CidrIp="192.0.2.7/32")
    launch._bootstrap(yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text()))
    (group,) = launch.ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    ranges = [place["CidrIp"] for rule in group["IpPermissions"] for place in rule["IpRanges"]]
    assert ranges == ["192.0.2.7/32"]
    launch.ec2.revoke_security_group_ingress(**ssh, CidrIp="192.0.2.7/32")
    launch.ec2.authorize_security_group_ingress(**ssh, CidrIp="0.0.0.0/0")


def test_a_worker_may_use_the_bucket_and_nothing_else(launch: Launch) -> None:
    statements = launch.policies("minibert-worker")
    assert all(action.startswith("s3:") for action in actions(statements))
    assert {statement["Resource"] for statement in statements} == {f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= set(actions(statements))


def test_taking_it_down_terminates_all_and_the_heads_role_was_enough(launch: Launch) -> None:
    ids = [node["InstanceId"] for kind in ("worker", "head") for node in launch.nodes(kind)]
    launch.provider.terminate_nodes(ids)
    assert launch.nodes("worker") == launch.nodes("head") == []
    allowed = actions(launch.policies("minibert-head"))
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= launch.calls
    assert [call for call in launch.calls if not any(fnmatch(call, action) for action in allowed)] == []
    assert "iam:PassRole" in allowed and "ssm:GetParameters" in allowed
    assert launch.ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["available", "in-use"]}])["Volumes"] == []
