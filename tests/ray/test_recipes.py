"""What a cluster is told: resources of steps; and the files under deploy/ray as their readers see them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from recsys_dagster.definitions import defs
from resources.instance import SETTINGS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "ray"


def test_steps_say_what_they_take():
    """Those of the pool `gpu` a GPU, the graph and its clusters memory, all a CPU: none is left to the head node."""
    for key in defs.resolve_all_asset_keys():
        step = defs.resolve_assets_def(key)
        told = json.loads(step.op.tags["dagster-ray/config"])
        assert told["num_cpus"] == 1, key
        assert ("num_gpus" in told) == (step.op.pool == "gpu"), key
        large = key.to_user_string() in ("coengagement_graph", "soft_memberships", "prototypes")
        assert ("memory" in told) == large, key


def test_the_location_for_a_cluster_is_the_same_lineage_with_another_executor():
    pytest.importorskip("dagster_ray")
    from recsys_dagster.on_ray import defs as on_ray

    assert set(on_ray.resolve_all_asset_keys()) == set(defs.resolve_all_asset_keys())
    assert on_ray.executor.name == "ray"
    assert defs.executor.name == "in_process"


def test_the_lines_for_dagster_yaml_make_a_launcher(tmp_path):
    pytest.importorskip("dagster_ray")
    (tmp_path / "dagster.yaml").write_text(SETTINGS + (DEPLOY / "run_launcher.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == "RayRunLauncher"
        assert instance.run_launcher.address == "http://127.0.0.1:8265"
        assert instance.run_launcher.num_cpus == 1


def test_the_recipe_of_ray_up_is_one_that_ray_accepts():
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = config[name][-1]
        assert all(f"{place}=/shared/" in command for place in ("RECSYS_HOME", "DAGSTER_HOME", "RECSYS_DATA_DIR"))


def test_the_recipe_of_kuberay_mounts_what_it_claims_and_has_a_group_with_a_gpu():
    configs = pytest.importorskip("dagster_ray.kuberay.configs")
    claim, cluster = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = configs.RayClusterSpec(**{snake(name): value for name, value in cluster["spec"].items()})
    assert spec.ray_version == pinned("ray")
    groups = [spec.head_group_spec, *spec.worker_group_specs]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts == {"/state": claim["metadata"]["name"]}
        assert {each["name"] for each in container["env"]} >= {"RECSYS_HOME", "DAGSTER_HOME"}
    gpus = [
        group
        for group in groups
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    ]
    assert [group["groupName"] for group in gpus] == ["gpu"]


def snake(name: str) -> str:
    return re.sub("([A-Z])", lambda letter: f"_{letter.group().lower()}", name)


def pinned(package: str) -> str:
    return re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)
