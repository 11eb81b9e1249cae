"""Spans, as a receiver of OTLP over HTTP gets them from a running service."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.service.conftest import StartServer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What an OpenTelemetry collector is told."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def under(self, parent: bytes) -> dict[str, Any]:
        """Spans by name."""
        return {span.name: span for span in list(self.spans) if span.parent_span_id == parent}


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_a_span_a_stage_in_the_callers_trace(start_server: StartServer, photo: Path, collector: Collector) -> None:
    with start_server(traces=collector.url) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        traceparent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = client.post("/predict", files={"image": photo.read_bytes()}, headers=traceparent).json()
        images = [("images", photo.read_bytes()), ("images", b"junk")]
        assert client.post("/predict/batch", files=images).status_code == 200
        assert client.get("/nothing").status_code == 404
    # Stopping has sent what was left.
    assert collector.services == {"figureground"}
    request = collector.under(bytes.fromhex(PARENT))["POST /predict"]
    photo_ = collector.under(request.span_id)["photo"]
    stages = collector.under(photo_.span_id)
    assert {span.trace_id.hex() for span in (request, photo_, *stages.values())} == {TRACE}
    assert set(stages) == {"queue", "decode", "detect", "crop", "classify"}
    for name, span in stages.items():
        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert seconds * 1000 == pytest.approx(answer["timings_ms"][name], abs=0.002)
        assert photo_.start_time_unix_nano <= span.start_time_unix_nano <= photo_.end_time_unix_nano
    told = {one.key: one.value.string_value for one in photo_.attributes}
    assert told["figureground.request_id"] == answer["request_id"]
    others = {span.name: span for span in collector.spans if span.trace_id.hex() != TRACE}
    assert {"POST /predict/batch", "GET other"} <= set(others)
    assert set(collector.under(others["POST /predict/batch"].span_id)) == {"photo"}


def test_off_imports_nothing(environment: dict[str, str]) -> None:
    code = (
        "import sys, service.app as app; app.Figureground.to_asgi(); "
        "print([name for name in sys.modules if name.startswith('opentelemetry.exporter')])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
