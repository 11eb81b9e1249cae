"""Ray Serve as its docs have it: a deployment that reads the request's body, a replica a core.

python -m loadtests.rivals.ray_server PORT
"""

import asyncio
import os
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from loadtests.rivals.models import load_models


@serve.deployment(num_replicas=len(os.sched_getaffinity(0)), max_ongoing_requests=4, ray_actor_options={"num_cpus": 1})
class Comparing:
    def __init__(self) -> None:
        self.models = load_models()

    async def __call__(self, request: Request) -> dict[str, Any]:
        data = await request.body()
        return await asyncio.to_thread(self.models.answer, data)


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Comparing.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
