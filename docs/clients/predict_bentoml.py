"""With BentoML's own client, which knows the service's methods and options."""

import os
from pathlib import Path

import bentoml

PHOTO = Path(os.environ.get("PHOTO", "photo.jpg"))
URL = os.environ.get("URL", "http://localhost:3000")
KEY = os.environ.get("KEY", "none")

with bentoml.SyncHTTPClient(URL, token=KEY) as client:
    answer = client.predict(image=PHOTO, top_k=1, arms=["background"])
    print("plain:", answer["plain"]["top_k"][0]["label"])
    batch = client.predict_batch(images=[PHOTO, PHOTO], top_k=1)
    print("batch:", len(batch["results"]))
