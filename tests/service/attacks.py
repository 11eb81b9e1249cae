"""HTTP requests as nobody should send them, each with the statuses that are right."""

import base64
import io

from PIL import Image

from tests.models.mutations import LYING_AVIF


def post(body: bytes = b"", *headers: str, path: str = "/predict", content_type: str = "image/png") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {content_type}", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def form(body: bytes, boundary: str = "x", path: str = "/predict") -> bytes:
    return post(body, path=path, content_type=f"multipart/form-data; boundary={boundary}")


def as_json(body: bytes) -> bytes:
    return post(body, content_type="application/json")


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")


def part(disposition: str, body: bytes = b"x") -> bytes:
    return f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode("latin-1") + body + b"\r\n"


_png = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(_png, "PNG")
PNG = _png.getvalue()
GOOD = post(PNG)
IMAGE = part('form-data; name="image"; filename="a.png"', PNG)
CHUNKED = "Transfer-Encoding: chunked"

ATTACKS: dict[str, tuple[bytes, set[int]]] = {
    # Smuggling: a second request that only one of two servers in a row would see.
    "length and chunks": (post(b"0\r\n\r\n" + get("/models"), "Content-Length: 5", CHUNKED), {400}),
    "chunks and length": (post(b"0\r\n\r\n" + get("/models"), CHUNKED, "Content-Length: 5"), {400}),
    "two lengths": (post(PNG, "Content-Length: 1", f"Content-Length: {len(PNG)}"), {400}),
    "a length in words": (post(PNG, "Content-Length: 0x10"), {400}),
    "a length with a plus": (post(PNG, "Content-Length: +5"), {400}),
    "an obscured encoding": (post(b"0\r\n\r\n", "Transfer-Encoding: xchunked"), {400}),
    "an encoding after a tab": (post(b"0\r\n\r\n", "Transfer-Encoding:\tchunked", "Content-Length: 5"), {400}),
    "a bare line feed in a chunk": (post(b"1\nx\n0\n\n", CHUNKED), {400}),
    "a chunk size that overflows": (post(b"fffffffffffffffff\r\n", CHUNKED), {400}),
    "a header line that splits": (b"GET /models HTTP/1.1\r\nHost: x\r\nA: b\rX: y\r\n\r\n", {400}),
    "100,000 headers": (post(PNG, *["A: b"] * 100_000), {431}),
    "no host": (b"GET /models HTTP/1.1\r\n\r\n", {200, 400}),
    "HTTP/0.9": (b"GET /models\r\n\r\n", {0, 400}),
    "HTTP/9.9": (b"GET /models HTTP/9.9\r\n\r\n", {400}),
    # Paths.
    "a path upwards": (get("/../../etc/passwd"), {404}),
    "a path upwards, encoded": (get("/static_content/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), {404}),
    "a path upwards, twice encoded": (get("/static_content/%252e%252e/etc/passwd"), {404}),
    "backslashes": (get("/static_content/..\\..\\etc\\passwd"), {400, 404}),
    "a null byte in the path": (get("/models%00.json"), {404}),
    "a null byte in a file's path": (get("/static_content/%00"), {404}),
    "no UTF-8 in the path": (get("/%ff%fe"), {404}),
    "a path that is a host": (get("//example.org/models"), {404}),
    "a slash at the end": (get("/models/"), {404}),
    "a path with a scheme": (get("http://example.org:99999999/models"), {400, 404}),
    "a path of a star": (get("*", "OPTIONS"), {400, 404}),
    "a method that there is not": (get("/predict", "FROB"), {400}),
    "TRACE": (get("/models", "TRACE"), {405}),
    # Forms.
    "a boundary of 30,000 bytes": (form(b"--" + b"x" * 30_000, "x" * 30_000), {400}),
    "no boundary": (post(b"--x--", content_type="multipart/form-data"), {400}),
    "a boundary of nothing": (form(b"----", '""'), {400, 422}),
    "a boundary in odd letters": (form(b"--\xff\xff--", "\xff\xff"), {400, 422}),
    "boundaries without end": (form(b"--x\r\n" * 10_000), {400, 413}),
    "half boundaries": (form(IMAGE[:-2] + b"\r\n--" * 10_000 + b"\r\n--x--\r\n"), {200, 400}),
    "10,000 parts": (form(part('form-data; name="a"', b"") * 10_000 + b"--x--\r\n"), {413, 422}),
    "a part of many headers": (form(b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\nx\r\n--x--\r\n"), {400, 422}),
    "a part without a name": (form(part("form-data") + b"--x--\r\n"), {422}),
    "a file name upwards": (form(part('form-data; name="image"; filename="../../x"', PNG) + b"--x--\r\n"), {200}),
    "a file name of nulls": (form(part('form-data; name="image"; filename="\0"', PNG) + b"--x--\r\n"), {200, 400}),
    "a name in parts (RFC 2231)": (form(part("form-data; name*0=im; name*1=age", PNG) + b"--x--\r\n"), {200, 422}),
    "the photo twice": (form(IMAGE + IMAGE + b"--x--\r\n"), {422}),
    "an option twice": (form(IMAGE + part('form-data; name="top_k"', b"1") * 2 + b"--x--\r\n"), {422}),
    "an option in query and form": (
        form(IMAGE + part('form-data; name="top_k"', b"1") + b"--x--\r\n", path="/predict?top_k=2"),
        {422},
    ),
    "forms in forms": (
        form(b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n"),
        {400, 422},
    ),
    "a form that goes on": (form(IMAGE + b"--x--\r\n" + b"junk" * 1000), {200, 400}),
    # Options.
    "1000 options": (post(PNG, path="/predict?" + "&".join(f"a{n}=1" for n in range(1000))), {422}),
    "an option of 20,000 letters": (post(PNG, path="/predict?backbone=" + "x" * 20_000), {422}),
    "an option of nulls": (post(PNG, path="/predict?backbone=%00"), {422}),
    "a model's path": (post(PNG, path="/predict?backbone=../../x.pt"), {422}),
    "a model of another hub": (post(PNG, path="/predict?backbone=hf-hub:x/y"), {422}),
    "an infinite margin": (post(PNG, path="/predict?margin=inf"), {422}),
    "a number without end": (post(PNG, path="/predict?top_k=" + "9" * 5000), {422}),
    # JSON.
    "brackets without end": (as_json(b"[" * 1_000_000), {400}),
    "a deep object": (as_json(b'{"image":' * 100_000), {400}),
    "a number of a million digits": (as_json(b'{"image": "", "top_k": ' + b"9" * 1_000_000 + b"}"), {400, 422}),
    "a key twice": (as_json(b'{"image": "eA==", "image": "eQ=="}'), {400}),
    "half a surrogate": (as_json(b'{"image": "\\ud800"}'), {400}),
    "no UTF-8": (as_json(b'{"image": "\xff"}'), {400}),
    "NaN": (as_json(b'{"image": "", "margin": NaN}'), {400}),
    "objects for options": (as_json(b'{"image": "eA==", "top_k": {"$gt": 1}, "arms": [[]]}'), {422}),
    "base64 above the limit": (as_json(b'{"image": "' + base64.b64encode(bytes(2_000_002)) + b'"}'), {413}),
    "base64 with line feeds": (as_json(b'{"image": "eA\\n=="}'), {400}),
    # Bodies.
    "a body in gzip": (post(PNG, "Content-Encoding: gzip"), {415}),
    "feedback in gzip": (
        post(b"{}", "Content-Encoding: gzip", path="/feedback", content_type="application/json"),
        {415},
    ),
    "an AVIF that lies about its size": (post(LYING_AVIF, content_type="image/avif"), {400}),
    "a length above the limit": (post(b"", "Content-Length: 999999999999"), {413}),
    "a picture of another type": (post(b"<svg onload=alert(1)>", content_type="image/svg+xml"), {400, 415}),
    "pickled": (post(b"cos\nsystem\n", content_type="application/vnd.bentoml+pickle"), {415}),
    "a type of 30,000 letters": (post(PNG, content_type="image/" + "x" * 30_000), {200}),
    "a type of nulls": (post(PNG, content_type="image/\0"), {400}),
    "an id that splits": (post(PNG, "X-Request-ID: a%0d%0aSet-Cookie: b"), {200}),
    "a batch of nothing": (form(b"--x--\r\n", path="/predict/batch"), {422}),
}
"""Each with the statuses that are right; 0 is a connection closed without an answer."""
