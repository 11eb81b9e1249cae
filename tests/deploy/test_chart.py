"""The Helm chart, rendered by Helm's own engine and checked against the schemas of Kubernetes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "figureground"
RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
KUBERNETES = ("1.28.0", "1.37.0")
Manifest = dict[str, Any]
Values = dict[str, Any]

DATABASE = {"journalUrl": "postgresql://user:secret@database/figureground", "apiKeys": ["first", "second"]}
EVERYTHING: Values = {
    "secret": DATABASE,
    "gpu": {"enabled": True, "nodeSelector": {"nvidia.com/gpu.present": "true"}},
    "ingress": {"enabled": True, "tlsSecret": "certificate", "annotations": {"example.org/a": "b"}},
    "autoscaling": {"kind": "keda"},
    "networkPolicy": {"fromNamespaces": [{"kubernetes.io/metadata.name": "ingress-nginx"}]},
    "monitoring": {"serviceMonitor": True, "rules": True, "labels": {"release": "prometheus"}},
    "imagePullSecrets": [{"name": "registry"}],
    "affinity": {"nodeAffinity": {}},
    "settings": {"BACKBONES": "tf_efficientnet_lite0.in1k", "MAX_QUEUE": 8},
}
VARIANTS: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "adapter": {"autoscaling": {"kind": "prometheus-adapter"}},
    "own secret": {"secret": {"existing": "mine"}},
    "bare": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
}


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def rendered(chart: Any, values: Values) -> dict[str, Manifest]:
    """The manifests by kind and name, the release being called `demo`."""
    texts = chart.render(values, name="demo", namespace="photos")
    found = [one for path, text in texts.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}


def container(manifests: dict[str, Manifest]) -> Manifest:
    pod = manifests["Deployment/demo-figureground"]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    return dict(only)


def test_helm_lint_finds_nothing() -> None:
    report = helm.lint(CHART, strict=True)
    worse_than_a_hint = [message for message in report["messages"] if message["severity"] > 1]
    assert (report["errors"], worse_than_a_hint) == ([], [])


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_knows_every_field(variant: str, version: str, chart: Any) -> None:
    manifests = rendered(chart, VARIANTS[variant])
    for name, manifest in manifests.items():
        # The operators' own kinds are in no schema of Kubernetes.
        if manifest["apiVersion"].split("/")[0] not in ("monitoring.coreos.com", "keda.sh"):
            assert kubernetes_validate.validate(manifest, version, strict=True), name


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("defaults", "Deployment NetworkPolicy Pod PodDisruptionBudget Secret Service"),
        (
            "everything",
            "Deployment Ingress Job NetworkPolicy Pod PodDisruptionBudget PrometheusRule PrometheusRule ScaledObject "
            "Secret Service ServiceMonitor",
        ),
        ("adapter", "Deployment HorizontalPodAutoscaler NetworkPolicy Pod PodDisruptionBudget Secret Service"),
        ("own secret", "Deployment Job NetworkPolicy Pod PodDisruptionBudget Service"),
        ("bare", "Deployment Pod Secret Service"),
    ],
)
def test_what_the_values_ask_for(variant: str, kinds: str, chart: Any) -> None:
    found = [manifest["kind"] for manifest in rendered(chart, VARIANTS[variant]).values()]
    assert " ".join(sorted(found)) == kinds


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_is_locked_down(variant: str, chart: Any) -> None:
    manifests = rendered(chart, VARIANTS[variant])
    pods = [one if one["kind"] == "Pod" else one["spec"]["template"] for one in manifests.values()
            if one["kind"] in ("Pod", "Deployment", "Job")]  # fmt: skip
    for pod in (pod["spec"] for pod in pods):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        for one in pod["containers"]:
            allowed = one["securityContext"]
            assert allowed["readOnlyRootFilesystem"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}


def test_the_grace_period_covers_the_drain(chart: Any) -> None:
    drain = {"preStopSeconds": 7, "drainSeconds": 3, "deadlineSeconds": 60}
    manifests = rendered(chart, {"drain": drain})
    pod = manifests["Deployment/demo-figureground"]["spec"]["template"]["spec"]
    settings = {one["name"]: one.get("value") for one in container(manifests)["env"]}
    assert pod["terminationGracePeriodSeconds"] > sum(drain.values())
    assert container(manifests)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert (settings["FIGUREGROUND_DRAIN_SECONDS"], settings["FIGUREGROUND_DEADLINE_SECONDS"]) == ("3", "60")


def test_a_gpu_is_asked_for_and_the_image_has_cuda(chart: Any) -> None:
    manifests = rendered(chart, EVERYTHING)
    assert container(manifests)["image"] == "figureground:0.1.0-cuda"
    assert container(manifests)["resources"]["limits"] == {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": 1}
    pod = manifests["Deployment/demo-figureground"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_secrets_are_in_no_environment_by_value(chart: Any) -> None:
    manifests = rendered(chart, EVERYTHING)
    secret = manifests.pop("Secret/demo-figureground")
    assert secret["stringData"] == {"api-keys": "first,second", "journal-url": DATABASE["journalUrl"]}
    assert "user:secret" not in yaml.safe_dump(manifests)


def test_the_rules_are_those_that_promtool_tests(chart: Any) -> None:
    manifests = rendered(chart, EVERYTHING)
    for kind in ("rules", "alerts"):
        spec = manifests[f"PrometheusRule/demo-figureground-{kind}"]["spec"]
        assert spec == yaml.safe_load((RULES / f"{kind}.yml").read_text())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": "three"}, "replicas"),
        ({"settings": {"api_keys": "x"}}, "api_keys"),
        ({"settings": {"API_KEYS": "x"}}, "API_KEYS"),
        ({"secret": {"journalUrl": "mysql://x"}}, "journalUrl"),
        ({"autoscaling": {"kind": "magic"}}, "kind"),
    ],
)
def test_a_wrong_value_is_named(values: Values, named: str, chart: Any) -> None:
    with pytest.raises(helm.HelmError, match=named):
        chart.render(values, name="demo", namespace="photos")


def test_the_packaged_chart_is_whole(chart: Any, tmp_path: Path) -> None:
    """The rules are links in the checkout, and files in the archive."""
    archive = chart.save(tmp_path)
    listed = subprocess.run(["tar", "--list", "--file", archive], capture_output=True, text=True, check=True).stdout
    assert {"figureground/files/rules.yml", "figureground/files/alerts.yml"} <= set(listed.split())
