"""mosec as its docs have it: a worker class that takes raw bytes, a process a core.

python -m loadtests.rivals.mosec_server --port PORT
"""

import os
from typing import Any

from mosec import Server, Worker

from loadtests.rivals.models import load_models


class Comparing(Worker):
    def __init__(self) -> None:
        self.models = load_models()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        return self.models.answer(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Comparing, num=len(os.sched_getaffinity(0)), timeout=60)
    server.run()
