"""LitServe as its docs have it: a LitAPI that decodes, predicts and encodes, a worker a core.

python -m loadtests.rivals.litserve_server PORT
"""

import os
import sys
from typing import Any

import litserve
from fastapi import UploadFile

from loadtests.rivals.models import load_models


class Comparing(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.models = load_models()

    def decode_request(self, request: UploadFile) -> bytes:
        data: bytes = request.file.read()
        return data

    def predict(self, x: bytes) -> dict[str, Any]:
        return self.models.answer(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    server = litserve.LitServer(Comparing(), accelerator="cpu", workers_per_device=cores, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
