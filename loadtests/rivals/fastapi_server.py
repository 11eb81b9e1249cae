"""FastAPI as its docs have it: the models from a lifespan, a sync endpoint with an UploadFile, a worker a core.

uvicorn loadtests.rivals.fastapi_server:app --workers 2
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, File

from loadtests.rivals.models import Models, load_models

served: dict[str, Models] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    served["models"] = load_models()
    yield
    served.clear()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict[str, Any]:
    return served["models"].answer(image)


@app.get("/readyz")
def ready() -> bool:
    return True
