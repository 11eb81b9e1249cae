"""With httpx: waits as long as it is told to, and says what went wrong."""

import os
import time
from pathlib import Path
from typing import Any

import httpx

PHOTO = Path(os.environ.get("PHOTO", "photo.jpg"))
URL = os.environ.get("URL", "http://localhost:3000")
KEY = os.environ.get("KEY", "none")


def predict(client: httpx.Client, photo: Path, **options: Any) -> dict[str, Any]:
    while True:
        response = client.post("/predict", files={"image": photo.read_bytes()}, params=options)
        if response.status_code not in (429, 503):
            break
        time.sleep(int(response.headers.get("Retry-After", 1)))
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise SystemExit(f"{answer['status']}: {answer['detail']} (request {answer['request_id']})")
    return answer


with httpx.Client(base_url=URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
    answer = predict(client, PHOTO, top_k=1)
    for arm in ("plain", "cropped", "combined"):
        top = answer[arm]["top_k"][0] if answer[arm] else {"label": answer["no_crop_reason"], "probability": 0}
        print(f"{arm}: {top['label']} {top['probability']:.2f}")
