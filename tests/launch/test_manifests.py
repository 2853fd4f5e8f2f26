"""Files for Kubernetes, KubeRay and `ray up`: valid, and their commands are commands of a2s."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from repository import REPO

from a2s.config.parse import parse

LAUNCH = REPO / "launch"
JOB, RAY_JOB = LAUNCH / "kubernetes" / "train.yaml", LAUNCH / "kubernetes" / "label.yaml"
CLUSTER = LAUNCH / "ray" / "cluster.yaml"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def a2s_command(words: list[str]) -> list[str]:
    """The command and the flags after `a2s`, which must parse."""
    command, *flags = words[words.index("a2s") + 1 :]
    parse(command, flags)
    return [command, *flags]


def pod_templates() -> dict[str, dict[str, Any]]:
    """Every pod template of the two files, by its name."""
    _, job = documents(JOB)
    (ray_job,) = documents(RAY_JOB)
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        "train": job["spec"]["template"],
        "head": cluster["headGroupSpec"]["template"],
        **groups,
    }


@pytest.mark.parametrize("release", ["1.31", "1.37"])
def test_the_job_is_what_kubernetes_takes(release: str) -> None:
    for document in documents(JOB):
        kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize("name", pod_templates())
def test_the_pods_are_what_kubernetes_takes(name: str) -> None:
    """A template of a RayJob is a pod's, whose schema Kubernetes has."""
    template = pod_templates()[name]
    spec = {"restartPolicy": "Never", **template["spec"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes[mounts["/data"]]
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    limits = container["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (name in ("gpu", "train"))


def test_the_ranks_of_the_job_meet_at_the_first_pod() -> None:
    service, job = documents(JOB)
    spec, template = job["spec"], job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    flags = dict(re.findall(r"--([a-z-]+)=(\S+)", " ".join(container["args"])))
    name = job["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(flags["nnodes"])
    assert service["spec"]["selector"] == {"job-name": name}
    assert template["subdomain"] == service["metadata"]["name"]
    assert flags["rdzv-endpoint"] == f"{name}-0.{template['subdomain']}:{port}"
    assert int(flags["nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    command = a2s_command(container["args"])
    ranks = int(flags["nnodes"]) * int(flags["nproc-per-node"])
    assert int(command[command.index("--batch-size") + 1]) % ranks == 0


def test_the_ray_job_is_what_kuberay_takes() -> None:
    """Field by field: KubeRay's schema comes with no package."""
    (job,) = documents(RAY_JOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec.keys() == {
        *("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("backoffLimit", "rayClusterSpec"),
    }
    command = a2s_command(shlex.split(spec["entrypoint"]))
    assert command[:3] == ["label", "--ray-address", "auto"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head.keys() == {"rayStartParams", "template"}
    # Work on the head would die with nobody to repeat it.
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert [group["groupName"] for group in groups] == ["cpu", "gpu"]
    for group in groups:
        assert group.keys() == {
            *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
        }
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    images = {
        container["image"]
        for template in pod_templates().values()
        for container in template["spec"]["containers"]
    }
    assert len(images) == 1, "all nodes of a Ray cluster need the same versions"


def test_the_file_for_ray_up_is_what_ray_takes() -> None:
    import ray.autoscaler

    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    (cluster,) = documents(CLUSTER)
    jsonschema.validate(cluster, json.loads(schema.read_text("utf-8")))
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    workers = {name: kind for name, kind in types.items() if name != cluster["head_node_type"]}
    assert {"GPU" in kind["resources"] for kind in workers.values()} == {True, False}
    assert sum(kind["max_workers"] for kind in workers.values()) <= cluster["max_workers"]
    for start in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in line for line in start if "ray start" in line)
    text = CLUSTER.read_text("utf-8")
    a2s_command(shlex.split(re.findall(r"ray exec \S+ '(.+)'", text)[0]))


def test_every_launcher_is_in_the_table() -> None:
    table = (LAUNCH / "README.md").read_text("utf-8")
    for path in LAUNCH.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert f"launch/{path.relative_to(LAUNCH)}" in table, path
