"""`bentoml build` makes what the checkout serves, and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from evaluation.samples import SAMPLES
from models.served import Served
from service.running import RunningService, free_port
from tests.conftest import LITE0

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
_MARK = "<!-- of the bento -->"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bentoml")


@pytest.fixture(scope="module")
def bento(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bento built from a marked copy of the checkout: an editable installation serves no such page."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("models", "service", "evaluation", "training", "tests", "docs", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bentofile.yaml", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    page = copy / "service" / "page" / "index.html"
    page.write_text(page.read_text("utf-8") + _MARK, "utf-8")
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", "--version", "1"]
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "bentos" / "figureground" / "1"


@pytest.fixture(scope="module")
def server(
    bento: Path,  # noqa: ARG001 it is in the store
    home: Path,
    cache_dir: Path,
    served: Served,  # noqa: ARG001 exports lite0
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    folder, port = tmp_path_factory.mktemp("elsewhere"), free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FIGUREGROUND_", "PYTHONPATH"))}
    environment = {
        **kept,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "FIGUREGROUND_CACHE_DIR": str(cache_dir),
        "FIGUREGROUND_BACKBONES": LITE0,
        "FIGUREGROUND_JOURNAL_URL": f"sqlite:///{folder / 'journal.db'}",
    }
    command = [sys.executable, "-m", "bentoml", "serve", "figureground:1", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    service = RunningService(f"http://127.0.0.1:{port}", process)
    try:
        service.wait_until_ready(300)
        yield service
        assert service.stop() == 0, (folder / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()


def test_it_has_the_service_and_its_lock_and_nothing_else(bento: Path) -> None:
    files = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    of_checkout = {
        path.relative_to(ROOT).as_posix()
        for folder in ("models", "service")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    # What runs the demo, and what new migrations are made from.
    assert of_checkout - files == {"service/demo.py", "service/migrations/script.py.mako"}
    roots = {"models", "service", "evaluation", "deploy", "pyproject.toml", "bentofile.yaml"}
    assert {name.split("/")[0] for name in files} <= roots
    assert {name for name in files if name.startswith("deploy/")} == {"deploy/requirements-cuda.lock"}
    lock = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "--hash=sha256:" in lock
    assert "\ntorch==" in lock
    assert "BENTOML_DO_NOT_TRACK=True" in (bento / "env" / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["rocket", "china"])
def test_it_answers_photos(name: str, server: RunningService) -> None:
    sample = SAMPLES[name]
    answer = httpx.post(f"{server.url}/predict", files={"image": sample.path.read_bytes()}, timeout=60).json()
    assert answer["plain"]["top_k"][0]["label"] in sample.labels
    told = httpx.post(f"{server.url}/feedback", json={"request_id": answer["request_id"], "label": sample.labels[0]})
    assert told.status_code == httpx.codes.OK


def test_it_has_the_page_and_the_settings(server: RunningService) -> None:
    assert _MARK in httpx.get(f"{server.url}/").text
    listed = httpx.get(f"{server.url}/models").json()
    assert [model["name"] for model in listed["backbones"]] == [LITE0]
