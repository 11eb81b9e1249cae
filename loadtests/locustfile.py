"""For a person who loads a server of their own.

locust -f loadtests/locustfile.py --host http://127.0.0.1:3000                                      # with its page
locust -f loadtests/locustfile.py --host http://127.0.0.1:3000 --headless -u 16 -r 4 -t 60s         # without

PHOTOS=FOLDER posts the photos of a folder instead of the samples; API_KEY=... is sent along.
"""

import os
import random
from pathlib import Path

from locust import FastHttpUser, constant, task

from loadtests.photos import photos_of

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"}


def _photos() -> list[bytes]:
    folder = os.environ.get("PHOTOS")
    if folder is None:
        return list(photos_of("500x375"))
    found = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise SystemExit(f"PHOTOS: there is no photo in {folder}")
    return found


class Visitor(FastHttpUser):
    """Asks again as soon as it is answered; shed requests are told apart from failures by their name."""

    wait_time = constant(0)
    photos = _photos()
    key = os.environ.get("API_KEY", "")

    @task(10)
    def predict(self) -> None:
        self._post("/predict", "/predict")

    @task(1)
    def predict_with_arms(self) -> None:
        self._post("/predict?arms=background,squashed", "/predict, two arms")

    def _post(self, path: str, name: str) -> None:
        headers = {"Content-Type": "application/octet-stream", **({"X-API-Key": self.key} if self.key else {})}
        photo = random.choice(self.photos)
        with self.client.post(path, data=photo, headers=headers, name=name, catch_response=True) as response:
            if response.status_code == 429:
                response.request_meta["name"] = f"{name}, shed"
                response.success()
