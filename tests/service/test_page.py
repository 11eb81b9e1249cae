"""What the page for people is made of, as it is served."""

import base64
import io
from pathlib import Path

import httpx
import pytest
from PIL import Image

from evaluation.samples import SAMPLES
from models.label_spaces import imagenet_1k, imagenet_a
from service import page

PAGE = Path(page.__file__).parent / "page"


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 300_000


@pytest.mark.parametrize("path", [route.path for route in page.OPEN])
def test_a_file_is_asked_for_again_and_sent_once(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": f'"x", {response.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", response.headers["etag"])
    assert client.get(path, headers={"If-None-Match": 'W/"x"'}).status_code == 200


def test_all_that_is_there_is_served_with_its_type(client: httpx.Client) -> None:
    served = {route.path.removeprefix("/page/") for route in page.OPEN}
    assert served == {"/", *(path.name for path in PAGE.iterdir() if path.name != "index.html")}
    for path, media_type in (("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/page.css", "text/css")):
        assert client.get(path).headers["content-type"] == f"{media_type}; charset=utf-8"
    assert client.get("/page/none.js").status_code == 404
    assert client.get("/page/../settings.py").status_code == 404


def test_labels_in_the_order_of_their_indices(client: httpx.Client) -> None:
    told = client.get("/labels").json()
    assert told["name"] == "imagenet-1k"
    assert [entry["label"] for entry in told["classes"]] == list(imagenet_1k().labels)
    told = client.get("/labels?label_space=imagenet-a").json()
    assert [entry["wnid"] for entry in told["classes"]] == list(imagenet_a().wnids)
    refused = client.get("/labels?label_space=none")
    assert (refused.status_code, "tiny-imagenet" in refused.json()["detail"]) == (422, True)
    assert client.get("/labels?space=none").status_code == 422


def test_samples_are_the_installed_photos(client: httpx.Client) -> None:
    listed = client.get("/samples").json()["samples"]
    assert [sample["name"] for sample in listed] == list(SAMPLES)
    for sample in listed:
        assert Image.open(io.BytesIO(base64.b64decode(sample["thumbnail"]))).size == (128, 128)
        served = client.get(sample["path"])
        assert served.content == SAMPLES[sample["name"]].path.read_bytes()
        assert served.headers["content-type"] in ("image/png", "image/jpeg")


def test_without_the_samples_packages_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.samples.importlib.util.find_spec", lambda _: None)
    assert page.installed_samples.__wrapped__() == {}
