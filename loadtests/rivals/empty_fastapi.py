"""FastAPI with the models taken out: every photo gets the first one's answer, in a thread as with the models.

uvicorn loadtests.rivals.empty_fastapi:app
"""

from typing import Annotated, Any

from fastapi import FastAPI, File

from loadtests.rivals.models import OurModels

app = FastAPI()
kept: list[dict[str, Any]] = []


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict[str, Any]:
    if not kept:
        kept.append(OurModels().answer(image))
    return kept[0]
