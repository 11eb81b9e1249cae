import shutil
import time
from pathlib import Path

import httpx
import pytest

from models.backbones import bundled_backbone
from models.catalog import Catalog
from models.served import Loading, load
from tests.conftest import LITE0
from tests.service.conftest import LITE1, StartServer

ARGUMENTS = ("--backbone", LITE0, "--backbone", LITE1)


@pytest.fixture
def own_cache(cache_dir: Path, tmp_path: Path) -> Path:
    """With all exports but lite1's."""
    return Path(
        shutil.copytree(cache_dir, tmp_path / "cache", ignore=shutil.ignore_patterns(bundled_backbone(LITE1).sha256))
    )


@pytest.mark.slow
def test_a_backbone_is_exported_beside_serving(start_server: StartServer, own_cache: Path, photo: Path) -> None:
    with start_server(*ARGUMENTS, load="first", cache_dir=own_cache) as server, httpx.Client(timeout=60) as client:

        def ask(**options: str) -> httpx.Response:
            return client.post(f"{server.url}/predict", params=options, files={"image": photo.read_bytes()})

        def loaded() -> dict[str, bool]:
            listed = client.get(f"{server.url}/models").json()["backbones"]
            return {model["name"]: model["loaded"] for model in listed}

        early = ask(backbone=LITE1)
        assert (early.status_code, early.json()["detail"]) == (
            503,
            f"The backbone {LITE1!r} is still being loaded; try again in a moment.",
        )
        assert early.headers["Retry-After"]
        assert ask().status_code == 200
        assert loaded() == {LITE0: True, LITE1: False}
        assert f'figureground_model_loaded{{model="{LITE1}"}} 0.0' in client.get(f"{server.url}/metrics").text
        deadline = time.monotonic() + 1800
        while not loaded()[LITE1]:
            assert time.monotonic() < deadline, server.output.read_text()
            time.sleep(0.2)
        assert ask(backbone=LITE1).json()["models"]["backbone"]["name"] == LITE1
        assert f'figureground_model_loaded{{model="{LITE1}"}} 1.0' in client.get(f"{server.url}/metrics").text
        assert ask(backbone="vgg16").json()["detail"].endswith(f"served are: {LITE0}, {LITE1}")


@pytest.fixture
def lite1(catalog: Catalog, cache_dir: Path) -> None:
    """Its export."""
    load(catalog, [LITE1], [], Loading(cache_dir))


def test_a_backbone_answers_once_it_is_loaded(start_server: StartServer, lite1: None, photo: Path) -> None:  # noqa: ARG001
    with start_server(*ARGUMENTS, load="first") as server:
        deadline = time.monotonic() + 240
        while True:
            data = {"image": photo.read_bytes()}
            answer = httpx.post(f"{server.url}/predict", params={"backbone": LITE1}, files=data, timeout=60)
            if answer.status_code == 200:
                break
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert time.monotonic() < deadline, server.output.read_text()
        assert all(model["loaded"] for model in httpx.get(f"{server.url}/models").json()["backbones"])
        assert f'figureground_model_loaded{{model="{LITE1}"}} 1.0' in httpx.get(f"{server.url}/metrics").text


def test_a_server_that_still_loads_can_be_stopped(start_server: StartServer, own_cache: Path) -> None:
    with start_server(*ARGUMENTS, load="first", cache_dir=own_cache) as server:
        assert server.stop() == 0
