"""The image as its operators run it: another user, a read-only root, no capabilities, 1 core, 1 GiB.

`make image-test`, after `make image`: podman is needed, and root on a machine without user namespaces.
"""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from evaluation.samples import SAMPLES
from service.running import free_port

IMAGE = os.environ.get("FIGUREGROUND_IMAGE", "")
pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image is named: make image, then make image-test"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed: make system"),
]
_PHOTO = SAMPLES["rocket"].path
_HARDENED = [
    *("--read-only", "--tmpfs", "/tmp:rw,size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "1g", "--cpus", "1", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
]
_READY_SECONDS = 180


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    # runc where it is: crun refuses machines with both generations of control groups.
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    done = subprocess.run(["podman", *runtime, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@dataclass(frozen=True)
class Container:
    id: str
    url: str
    seconds_to_ready: float

    def python(self, code: str) -> str:
        return podman("exec", self.id, "python", "-c", code).stdout.strip()


@contextmanager
def running(*arguments: str) -> Iterator[Container]:
    port = free_port()
    here = ["--env", "FIGUREGROUND_HOST=127.0.0.1", "--env", f"FIGUREGROUND_PORT={port}"]
    start = time.monotonic()
    identity = podman("run", "--detach", *_HARDENED, "--network", "host", *here, *arguments, IMAGE).stdout.strip()
    try:
        url = f"http://127.0.0.1:{port}"
        while not _is_ready(url):
            (state,) = json.loads(podman("container", "inspect", identity).stdout)
            if not state["State"]["Running"] or time.monotonic() - start > _READY_SECONDS:
                told = podman("logs", identity)
                pytest.fail(told.stdout + told.stderr)
            time.sleep(0.05)
        yield Container(identity, url, time.monotonic() - start)
    finally:
        podman("rm", "--force", "--volumes", identity)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with running() as started:
        yield started


def test_it_is_small_and_soon_ready(container: Container, capsys: pytest.CaptureFixture[str]) -> None:
    (inspected,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    with capsys.disabled():
        print(f"\n{IMAGE}: {inspected['Size'] / 1e6:.0f} MB, ready in {container.seconds_to_ready:.1f} s")
    assert inspected["Size"] < 1e9


def test_it_says_what_it_is() -> None:
    (inspected,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    labels = {name.rpartition(".")[2]: value for name, value in inspected["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] in IMAGE
    assert all(labels[name] for name in ("title", "description", "revision"))
    assert "Healthcheck" in inspected or "Healthcheck" in inspected["Config"]


def test_a_photo_posted_from_outside(container: Container) -> None:
    answer = httpx.post(f"{container.url}/predict", files={"image": _PHOTO.read_bytes()}, timeout=60).json()
    assert answer["plain"]["top_k"][0]["label"] in SAMPLES["rocket"].labels
    told = httpx.post(f"{container.url}/feedback", json={"request_id": answer["request_id"], "label": "missile"})
    assert told.status_code == httpx.codes.OK


def test_it_is_nobody_and_can_write_nowhere_else(container: Container) -> None:
    assert podman("exec", container.id, "id", "--user").stdout.strip() == "10001"
    for folder, is_writable in {"/": False, "/opt/figureground/exports": False, "/tmp": True, "/data": True}.items():
        done = podman("exec", container.id, "touch", f"{folder}/file", check=False)
        assert (done.returncode == 0) == is_writable, done.stderr


def test_there_is_no_torch_no_compiler_and_no_pip(container: Container) -> None:
    absent = ["torch", "torchvision", "timm", "onnx", "pip", "setuptools", "tests"]
    code = f"import importlib.util as find; print([name for name in {absent} if find.find_spec(name)])"
    assert container.python(code) == "[]"
    tools = ["gcc", "cc", "make", "git", "curl"]
    assert container.python(f"import shutil; print([tool for tool in {tools} if shutil.which(tool)])") == "[]"
    assert container.python("from pathlib import Path; print(*Path('/root/.cache', '/tmp/.cache').glob('pip'))") == ""


def test_the_bill_of_materials_names_what_is_installed(container: Container) -> None:
    bill = json.loads(podman("exec", container.id, "cat", "/opt/figureground/sbom.cdx.json").stdout)
    named = {_normal(one["name"]): one["version"] for one in bill["components"]}
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = {_normal(name): version for name, version in json.loads(container.python(code)).items()}
    assert bill["metadata"]["component"]["name"] == "figureground"
    assert installed.pop("figureground") == bill["metadata"]["component"]["version"]
    assert installed == named


def test_its_own_healthcheck(container: Container) -> None:
    assert podman("healthcheck", "run", container.id).returncode == 0


def test_it_needs_no_network() -> None:
    started = podman("run", "--detach", *_HARDENED, "--network", "none", IMAGE).stdout.strip()
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while podman("healthcheck", "run", started, check=False).returncode != 0:
            assert time.monotonic() < deadline, podman("logs", started).stderr
    finally:
        podman("rm", "--force", "--volumes", started)


def test_a_stop_under_load_loses_no_request_that_was_taken() -> None:
    """Until the socket is closed each request has an answer: 200, or 503 while it drains; then nobody is there."""
    photo = _PHOTO.read_bytes()
    outcomes: Counter[str] = Counter()

    def send() -> None:
        while outcomes["refused"] < 8:
            try:
                answer = httpx.post(f"{url}/predict", content=photo, headers={"Content-Type": "image/jpeg"}, timeout=60)
                outcomes[str(answer.status_code)] += 1
            except httpx.ConnectError:
                outcomes["refused"] += 1
            except httpx.TransportError as error:
                outcomes[f"lost: {error}"] += 1

    with running() as container:
        url = container.url
        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        while outcomes["200"] < 20:
            time.sleep(0.05)
        podman("stop", "--time", "60", container.id)
        for sender in senders:
            sender.join()
        (inspected,) = json.loads(podman("container", "inspect", container.id).stdout)
    assert inspected["State"]["ExitCode"] == 0
    assert set(outcomes) <= {"200", "503", "refused"}, outcomes


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
