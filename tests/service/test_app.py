"""The running service, over HTTP."""

import base64
import io
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bentoml
import httpx
import psutil
import pytest
from PIL import Image

from models.label_spaces import imagenet_1k
from models.photo import Photo
from tests.conftest import LITE0
from tests.service.conftest import LITE1, Server, StartServer

CONTRACT = "request_id image box boxes crop plain cropped combined arms agreement no_crop_reason models timings_ms"
CHANGING = ("request_id", "timings_ms")


def lasting(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in CHANGING}


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def post_form(client: httpx.Client, photo: Path, **options: Any) -> httpx.Response:
    return client.post("/predict", files={"image": photo.read_bytes()}, data=options)


def test_an_answer_has_the_fields_of_the_contract(client: httpx.Client, photo: Path) -> None:
    response = post_form(client, photo, top_k=3, max_boxes=4, arms="detector,squashed")
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == CONTRACT.split()
    assert answer["request_id"] == response.headers["X-Request-ID"]
    assert answer["image"] == {"width": 451, "height": 300, "format": "PNG"}
    assert answer["box"] == answer["boxes"][0]
    assert 1 < len(answer["boxes"]) <= 4
    assert set(answer["box"]) == {"xyxy", "score", "area_fraction"}
    assert list(answer["timings_ms"]) == ["decode", "queue", "detect", "crop", "classify", "total"]
    assert list(answer["arms"]) == ["detector", "squashed"]
    for arm in ("plain", "cropped", "combined"):
        top = answer[arm]["top_k"]
        assert [entry["probability"] for entry in top] == sorted((e["probability"] for e in top), reverse=True)
        assert [entry["label"] for entry in top] == [imagenet_1k().labels[entry["index"]] for entry in top]
        assert len(top) == 3
    models = answer["models"]
    assert (models["backbone"]["name"], models["backbone"]["input_size"]) == (LITE0, 224)
    assert (models["detector"]["name"], models["label_space"]) == ("fcos_random", "imagenet-1k")


def test_all_forms_of_a_request_give_the_same_answer(client: httpx.Client, server: Server, photo: Path) -> None:
    data = photo.read_bytes()
    expected = lasting(post_form(client, photo).json())
    image = base64.b64encode(data).decode()
    typed = {name: {"content-type": name} for name in ("image/png", "image/*", "application/octet-stream")}
    for headers in typed.values():
        assert lasting(client.post("/predict", content=data, headers=headers).json()) == expected
    assert lasting(client.post("/predict", json={"image": image}).json()) == expected
    with bentoml.SyncHTTPClient(server.url) as bento:
        assert lasting(bento.predict(image=photo)) == expected


def test_bentomls_client_passes_options(server: Server, photo: Path) -> None:
    with bentoml.SyncHTTPClient(server.url) as bento:
        answer = bento.predict(image=photo, top_k=3, box_policy="score", arms=["center"], margin=0.5, backbone=LITE1)
        batch = bento.predict_batch(images=[photo, photo], top_k=1)
    assert len(answer["plain"]["top_k"]) == 3
    assert answer["models"]["backbone"]["name"] == LITE1
    assert list(answer["arms"]) == ["center"]
    assert [len(result["plain"]["top_k"]) for result in batch["results"]] == [1, 1]


OPTIONS = [
    {"backbone": LITE1},
    {"detector": "fcos_random"},
    {"box_policy": "largest"},
    {"margin": 0.3},
    {"min_score": 0.99},
    {"max_boxes": 3},
    {"top_k": 1},
    {"label_space": "imagenet-a"},
    {"arms": "background,center"},
    {"box": "20,30,300.5,200"},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_every_option_counts_in_query_form_and_json(client: httpx.Client, photo: Path, option: dict[str, Any]) -> None:
    data = photo.read_bytes()
    in_form = lasting(post_form(client, photo, **option).json())
    in_query = client.post("/predict", params=option, content=data, headers={"content-type": "image/png"})
    in_json = client.post("/predict", json={"image": base64.b64encode(data).decode(), **option})
    assert "plain" in in_form
    assert lasting(in_query.json()) == in_form == lasting(in_json.json())
    if option != {"detector": "fcos_random"}:
        assert in_form != lasting(post_form(client, photo).json())


JPEG = {"content-type": "image/jpeg"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
PNG_BYTES = encoded(Image.new("RGB", (64, 64), "green"), "PNG")
TOO_WIDE = encoded(Image.new("RGB", (2000, 1200)), "PNG")
ERRORS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("no such path", "GET /nowhere", {}, 404, "path"),
    ("no such method", "GET /predict", {}, 405, "method"),
    ("no such method", "POST /models", {}, 405, "method"),
    ("no such method", "DELETE /readyz", {}, 405, "method"),
    ("empty", "POST /predict", {"content": b"", "headers": JPEG}, 400, "empty"),
    ("junk", "POST /predict", {"content": b"junk", "headers": JPEG}, 400, "image"),
    ("truncated", "POST /predict", {"content": PNG_BYTES[:90], "headers": JPEG}, 400, "truncated"),
    ("empty file", "POST /predict", {"files": {"image": b""}}, 400, "empty"),
    ("text for a photo", "POST /predict", {"files": {"x": b""}, "data": {"image": "a"}}, 422, "x"),
    ("bad base64", "POST /predict", {"json": {"image": "%%%"}}, 400, "base64"),
    ("bad JSON", "POST /predict", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
    ("JSON array", "POST /predict", {"json": [1]}, 422, "object"),
    ("JSON number", "POST /predict", {"json": {"image": 7}}, 422, "text"),
    ("no boundary", "POST /predict", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
    ("broken form", "POST /predict", {"content": b"--y", "headers": FORM}, 400, "multipart"),
    ("half a form", "POST /predict", {"content": b"--x\r\nA: b", "headers": FORM}, 400, "early"),
    ("empty form", "POST /predict", {"content": b"--x--\r\n", "headers": FORM}, 422, "missing"),
    ("too many bytes", "POST /predict", {"content": bytes(2_000_001), "headers": JPEG}, 413, "2000000"),
    ("too many bytes", "POST /predict", {"files": {"image": bytes(2_000_001)}}, 413, "2000000"),
    ("too many bytes", "POST /predict", {"files": {"image": bytes(9_000_000)}}, 413, "bytes"),
    ("too many pixels", "POST /predict", {"content": TOO_WIDE, "headers": JPEG}, 413, "2000000"),
    ("unserved format", "POST /predict", {"content": b"%PDF-1.7", "headers": JPEG}, 415, "PDF"),
    ("text", "POST /predict", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "image/*"),
    ("no type", "POST /predict", {"content": b"x"}, 415, "image/*"),
    ("form", "POST /predict", {"data": {"a": "b"}}, 415, "image/*"),
    ("pickle", "POST /predict", {"headers": {"content-type": "application/vnd.bentoml+pickle"}}, 415, ""),
    ("no field", "POST /predict", {"json": {}}, 422, "image is missing"),
    ("no field", "POST /predict", {"files": {"photo": b"x"}}, 422, "image is missing"),
    ("two photos", "POST /predict", {"files": [("image", b"x"), ("image", b"x")]}, 422, "at most 1"),
    ("not multipart", "POST /predict/batch", {"content": b"x", "headers": JPEG}, 415, "multipart"),
    ("no photos", "POST /predict/batch", {"files": {"image": b"x"}}, 422, "images is missing"),
    ("too many", "POST /predict/batch", {"files": [("images", b"x")] * 5}, 422, "at most 4"),
]


@pytest.mark.parametrize(("case", "path", "request_", "status", "told"), ERRORS, ids=lambda value: str(value)[:20])
def test_every_error_is_a_problem(
    client: httpx.Client, case: str, path: str, request_: dict[str, Any], status: int, told: str
) -> None:
    response = client.request(*path.split(), **request_)
    check_problem(response, status, told or case[:0])
    if status == 405:
        assert response.headers["Allow"]


WRONG_OPTIONS = [
    ({"top_k": 0}, "top_k"),
    ({"top_k": 101}, "top_k"),
    ({"top_k": "many"}, "top_k"),
    ({"margin": -0.1}, "margin"),
    ({"margin": "nan"}, "margin"),
    ({"min_score": 1.5}, "min_score"),
    ({"max_boxes": 21}, "max_boxes"),
    ({"box_policy": "biggest"}, "'largest'"),
    ({"arms": "center,none"}, "'background'"),
    ({"backbone": "resnet50.a1_in1k"}, LITE1),
    ({"detector": "../etc/passwd"}, "fcos_random"),
    ({"label_space": "none"}, "tiny-imagenet"),
    ({"topk": 3}, "'topk' is no option"),
    ({"box": "1,2,3"}, "box"),
    ({"box": "9,2,3,4"}, "x1 < x2"),
    ({"box": "0,0,inf,4"}, "finite"),
    ({"box": "-1,0,3,4"}, "box"),
    ({"box": "0,0,64.1,64"}, "0,0,64,64"),
    ({"top_k": ["1", "2"]}, "more than once"),
]


@pytest.mark.parametrize(("option", "told"), WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_refused(client: httpx.Client, option: dict[str, Any], told: str) -> None:
    check_problem(client.post("/predict", params=option, content=PNG_BYTES, headers=JPEG), 422, told)
    check_problem(client.post("/predict", files={"image": PNG_BYTES}, data=option), 422, told)


def check_problem(response: httpx.Response, status: int, told: str) -> None:
    problem = response.json()
    assert response.status_code == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert told in problem["detail"]
    assert problem["title"]
    assert problem["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("given", "kept"), [("a-B_9.z", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)]
)
def test_a_sane_request_id_is_taken_over(client: httpx.Client, given: str, kept: bool) -> None:
    for path in ("/models", "/nowhere"):
        response = client.get(path, headers=[(b"X-Request-ID", given.encode())])
        assert (response.headers["X-Request-ID"] == given) is kept
        assert response.headers["X-Request-ID"]


def test_small_and_odd_photos_are_answered(client: httpx.Client) -> None:
    for size, mode in [((1, 1), "L"), ((1, 900), "RGB"), ((900, 1), "RGBA"), ((3, 2), "P")]:
        response = client.post("/predict", content=encoded(Image.new(mode, size), "PNG"), headers=JPEG)
        assert response.status_code == 200, response.text


def test_a_photo_that_covers_nothing_has_no_crop(client: httpx.Client, photo: Path) -> None:
    answer = post_form(client, photo, min_score=1).json()
    assert (answer["box"], answer["crop"], answer["cropped"], answer["boxes"]) == (None, None, None, [])
    assert (answer["no_crop_reason"], answer["agreement"]) == ("no_detection", None)
    assert answer["combined"] == answer["plain"]


@pytest.mark.parametrize(
    ("accept", "picture"),
    [("image/png", True), ("image/png, application/json;q=0.5", True), ("application/json, image/png", False)],
)
def test_accept_png_gives_a_picture(client: httpx.Client, photo: Path, accept: str, picture: bool) -> None:
    response = client.post("/predict", files={"image": photo.read_bytes()}, headers={"accept": accept})
    assert response.headers["content-type"] == ("image/png" if picture else "application/json")
    assert response.headers["X-Request-ID"]
    if picture:
        assert Image.open(io.BytesIO(response.content)).format == "PNG"


def test_a_given_box_is_answered_and_told_apart(client: httpx.Client, photo: Path) -> None:
    data, box = photo.read_bytes(), [20.0, 30.0, 300.5, 200.0]
    answer = client.post("/predict", json={"image": base64.b64encode(data).decode(), "box": box}).json()
    assert answer["box"] == {"xyxy": box, "score": None, "area_fraction": pytest.approx(280.5 * 170 / (451 * 300))}
    assert answer["boxes"] == [answer["box"]]
    form: dict[str, Any] = {"files": {"image": data}, "data": {"box": "20,30,300.5,200"}}
    drawn = client.post("/predict", headers={"accept": "image/png"}, **form)
    assert drawn.headers["content-type"] == "image/png"
    photos = [("images", encoded(Image.new("RGB", size), "PNG")) for size in ((400, 300), (200, 300))]
    large, small = client.post("/predict/batch", files=photos, params={"box": "20,30,300.5,200"}).json()["results"]
    assert (large["box"]["score"], small["error"]["status"]) == (None, 422)


def test_a_bad_photo_costs_no_other_its_answer(client: httpx.Client, photo: Path) -> None:
    good = photo.read_bytes()
    photos = [("images", data) for data in (good, b"junk", bytes(2_000_001), good)]
    response = client.post("/predict/batch", files=photos, params={"top_k": 1}, headers={"X-Request-ID": "abc"})
    first, junk, large, last = response.json()["results"]
    assert response.status_code == 200
    assert lasting(first) == lasting(last) == lasting(post_form(client, photo, top_k=1).json())
    assert (junk["error"]["status"], large["error"]["status"]) == (400, 413)
    assert [first["request_id"], junk["error"]["request_id"], last["request_id"]] == ["abc-0", "abc-1", "abc-3"]


def test_of_64_at_once_a_corrupt_one_fails_alone(server: Server, samples: Mapping[str, Photo]) -> None:
    photos = [encoded(photo.image.resize((300, 200)), "JPEG") for photo in samples.values()]

    def ask(data: bytes) -> httpx.Response:
        return httpx.post(f"{server.url}/predict", content=data, headers=JPEG, timeout=60)

    alone = [lasting(ask(data).json()) for data in photos]
    with ThreadPoolExecutor(64) as clients:
        responses = list(clients.map(ask, [photos[number % len(photos)] for number in range(63)] + [photos[0][:900]]))
    check_problem(responses.pop(), 400, "truncated")
    for number, response in enumerate(responses):
        assert lasting(response.json()) == alone[number % len(alone)], number
    text = httpx.get(f"{server.url}/metrics").text
    batches, looked_at = (
        float(line.split()[1])
        for part in ("count", "sum")
        for line in text.splitlines()
        if line.startswith(f'figureground_batch_size_{part}{{stage="detect"}}')
    )
    assert looked_at > batches  # Some shared one.


def test_models_lists_what_can_be_chosen(client: httpx.Client) -> None:
    listed = client.get("/models").json()
    assert [(model["name"], model["default"]) for model in listed["backbones"]] == [(LITE0, True), (LITE1, False)]
    assert [model["name"] for model in listed["detectors"]] == ["fcos_random"]
    assert [space["name"] for space in listed["label_spaces"]] == ["imagenet-1k", "imagenet-a", "tiny-imagenet"]
    model = listed["backbones"][0]
    assert model.pop("sha256")
    assert model == {
        "name": LITE0,
        "default": True,
        "loaded": True,
        "architecture": "tf_efficientnet_lite0",
        "input_size": 224,
        "label_space": "imagenet-1k",
        "classes": 1000,
        "parameters": 4652008,
        "source": "bundled",
        "engine": "onnxruntime",
        "device": "cpu",
    }


@pytest.mark.parametrize("path", ["/models", "/metrics", "/livez", "/readyz", "/docs.json", "/"])
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert client.get(path).status_code == 200


def test_metrics_count_what_happened(client: httpx.Client, photo: Path) -> None:
    post_form(client, photo)
    client.get("/nowhere/else")
    text = client.get("/metrics").text
    for line in (
        'figureground_requests_total{route="/predict",status="200"} ',
        'figureground_requests_total{route="other",status="404"} ',
        'figureground_stage_seconds_count{stage="total"} ',
        'figureground_batch_size_count{stage="detect"} ',
        "figureground_queue_depth 0.0",
        f'figureground_comparisons_total{{backbone="{LITE0}",detector="fcos_random",outcome="',
        f'figureground_confidence_shift_count{{backbone="{LITE0}"}} ',
        'figureground_box_area_fraction_count{detector="fcos_random"} ',
        'figureground_box_score_count{detector="fcos_random"} ',
        'figureground_rejected_total{reason="not_found"} ',
        f'figureground_model_loaded{{model="{LITE1}"}} 1.0',
        'figureground_model_load_seconds{model="fcos_random"} ',
    ):
        assert line in text
    assert "nowhere" not in text


@pytest.fixture(scope="module")
def small_server(start_server: StartServer) -> Iterator[Server]:
    """Two workers that are soon busy and soon tired of waiting."""
    with start_server(workers=2, threads=1, max_queue=1, deadline_seconds=4, drain_seconds=1.5) as running:
        yield running


def test_each_worker_takes_its_share_of_the_connections(small_server: Server) -> None:
    """Also of those that come at the same time, on which nothing is asked yet; of five times in three at least.

    A worker that the machine lets wait meanwhile may lose its share to another.
    """
    address = urlsplit(small_server.url).hostname, urlsplit(small_server.url).port
    deadline = time.monotonic() + 120

    def taken() -> list[int]:
        every = [worker.net_connections("tcp") for worker in small_server.workers()]
        return [sum(one.status == psutil.CONN_ESTABLISHED for one in own) for own in every]

    # The server is ready as soon as one of them is.
    while small_server.output.read_text().count("Completed async startup hook") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)

    def until_taken(number: int) -> list[int]:
        while sum(taken()) != number and time.monotonic() < deadline:
            time.sleep(0.05)
        return taken()

    differences = []
    with ExitStack() as before:
        while min(taken()) == 0 and time.monotonic() < deadline:
            before.enter_context(socket.create_connection(address, 20))
            time.sleep(0.5)
        held = sum(taken())
        for _ in range(5):
            with ExitStack() as opened:
                for _ in range(24):
                    opened.enter_context(socket.create_connection(address, 20))
                after = until_taken(held + 24)
            assert sum(after) == held + 24
            assert sum(until_taken(held)) == held
            differences.append(max(after) - min(after))
    assert sorted(differences)[2] <= 6, differences


def test_a_full_queue_sends_away_with_an_honest_wait(small_server: Server, photo: Path) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{small_server.url}/predict", files={"image": photo.read_bytes()}, timeout=60)

    with ThreadPoolExecutor(24) as clients:
        responses = list(clients.map(ask, range(24)))
    assert {response.status_code for response in responses} == {200, 429}
    refused = [response for response in responses if response.status_code == 429]
    for response in refused:
        check_problem(response, 429, "full")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert ask(0).status_code == 200
    # Both workers' counts, whichever of them is asked.
    text = httpx.get(f"{small_server.url}/metrics").text
    assert f'figureground_rejected_total{{reason="queue_full"}} {len(refused)}.0' in text


def test_a_deadline_that_passed_is_told(small_server: Server) -> None:
    def slow() -> Iterator[bytes]:
        yield b"half"
        time.sleep(6)
        yield b"a photo"

    response = httpx.post(f"{small_server.url}/predict", content=slow(), headers=JPEG, timeout=60)
    check_problem(response, 504, "")


def test_a_process_that_ends_loses_its_own_photo_alone(start_server: StartServer, photo: Path) -> None:
    """The worker stays, and the process is replaced."""
    data = photo.read_bytes()

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{server.url}/predict", files={"image": data}, timeout=60)

    with start_server(workers=1, threads=2) as server, ThreadPoolExecutor(4) as clients:
        expected = ask(0).json()["plain"]
        (worker,) = server.workers()
        (nursery,) = worker.children()
        asked = clients.map(ask, range(40))
        for _ in range(3):
            time.sleep(0.2)
            # The first may have nothing to do at present, and is no loss then.
            nursery.children()[0].kill()
        answers = list(asked)
        lost = [answer for answer in answers if answer.status_code != 200]
        for answer in lost:
            check_problem(answer, 503, "The process that was at this photo has ended")
            assert answer.headers["Retry-After"]
        assert len(lost) <= 3
        assert all(answer.json()["plain"] == expected for answer in answers if answer.status_code == 200)
        assert server.workers() == [worker]
        assert len(nursery.children()) == 2
        text = httpx.get(f"{server.url}/metrics").text
        assert f'figureground_rejected_total{{reason="process_lost"}} {len(lost)}.0' in text or not lost


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_is_replaced(ends: signal.Signals, small_server: Server, photo: Path) -> None:
    """The port stays open meanwhile: the other worker answers, or the one that drains does."""
    data = photo.read_bytes()
    before = small_server.workers()
    deadline = time.monotonic() + 60
    # It may have just begun to start.
    while len(its_own := before[0].children(recursive=True)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    before[0].send_signal(ends)
    while len(now := small_server.workers()) < 2 or before[0] in now:
        # The other one may have just begun to start itself.
        status = httpx.post(f"{small_server.url}/predict", files={"image": data}, timeout=60).status_code
        assert status == 200 or (status == 503 and ends == signal.SIGTERM)
        assert time.monotonic() < deadline
    assert before[1] in small_server.workers()
    _, left = psutil.wait_procs(its_own, 10)
    assert (len(its_own), left) == (2, [])
    told = f"the worker process {before[0].pid} has ended, by {ends.name}; another takes its place"
    assert told in small_server.output.read_text()


def test_stopping_loses_no_accepted_request(small_server: Server, photo: Path) -> None:
    """The last test of this server: it is gone afterwards."""
    data = photo.read_bytes()
    replaced = small_server.output.read_text().count("another takes its place")
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(small_server.keep_asking, data, number % 2) for number in range(8)]
        time.sleep(1)
        os.kill(small_server.process.pid, signal.SIGTERM)
        wait_for_draining(small_server)
        statuses = {status for one in asking for status in one.result()}
    # Whoever was let in has his answer, whoever came later was told so, or found nobody.
    assert {200, 503} <= statuses <= {200, 429, 503}
    assert small_server.process.wait(60) == 0
    output = small_server.output.read_text()
    # Both workers came to their end, and none of them by an error.
    assert output.count("Service instance cleanup finalized") >= 2
    assert "Traceback" not in output
    assert output.count("another takes its place") == replaced


def wait_for_draining(server: Server) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        response = httpx.get(f"{server.url}/readyz")
        if response.status_code == 503:
            check_problem(response, 503, "stopping")
            assert response.headers["Retry-After"]
            assert response.headers["Connection"] == "close"
            return
    pytest.fail("/readyz never said 503")


def test_the_openapi_document_has_the_options(client: httpx.Client) -> None:
    document = client.get("/docs.json").json()
    operation = document["paths"]["/predict"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert document["openapi"] == "3.1.0"
    assert {"image", "top_k", "arms"} <= set(form)
    assert {parameter["name"] for parameter in operation["parameters"]} == set(form) - {"image"}
    assert '"type": "file"' not in json.dumps(document)
