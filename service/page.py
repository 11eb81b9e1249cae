"""What the page for people is made of: its own files, the label spaces to choose from, and sample photos to try.

The files are in `service/page/`, read once. The samples come with scikit-image and scikit-learn, where those are
installed; the page shows them only then.
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from evaluation.samples import SAMPLES, Sample
from models.served import Served
from service.answers import label_spaces
from service.problems import Problem
from service.requests import one_of_each

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
_THUMBNAIL_SIDE = 128


@dataclass(frozen=True, slots=True)
class File:
    """Kept by browsers, but asked for again at every visit, so that a new version of the service has a new page."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "File":
        content = path.read_bytes()
        # Weak, since the same file may be compressed on its way.
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
        return cls(content, _MEDIA_TYPES[path.suffix], etag)

    def route(self, path: str) -> Route:
        return Route(path, self.respond)

    async def respond(self, request: Request) -> Response:
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        known = request.headers.get("if-none-match", "")
        if self.etag in (tag.strip() for tag in known.split(",")):
            # The browser puts these headers in the place of those that it kept: a page must still be known as one.
            return Response(status_code=304, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


class LabelsAsked(BaseModel):
    """The query of GET /labels. Raises `pydantic.ValidationError`."""

    model_config = ConfigDict(extra="forbid")

    label_space: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="a served label space; default: that of the default backbone"
    )


async def _labels(request: Request) -> Response:
    """The classes of a label space, in the order of their indices."""
    wanted = LabelsAsked.model_validate(one_of_each(request.query_params.multi_items())).label_space
    served: Served = request.app.state.served
    spaces = label_spaces(loaded.model for loaded in served.backbones.values())
    if wanted is not None and wanted not in spaces:
        raise Problem(422, f"label_space {wanted!r} is not served; served are: {', '.join(spaces)}")
    space = spaces[wanted or next(iter(spaces))]
    classes = [{"wnid": wnid, "label": label} for wnid, label in zip(space.wnids, space.labels, strict=True)]
    return JSONResponse({"name": space.name, "classes": classes})


async def _samples(_: Request) -> Response:
    return JSONResponse({"samples": await asyncio.to_thread(_listed)})


@cache
def _listed() -> list[dict[str, str]]:
    """The installed sample photos, each with a small JPEG of itself in base64."""
    return [
        {"name": name, "path": f"/samples/{name}", "source": sample.package, "thumbnail": _thumbnail(sample.path)}
        for name, sample in installed_samples().items()
    ]


@cache
def installed_samples() -> Mapping[str, Sample]:
    return {name: sample for name, sample in SAMPLES.items() if _is_installed(sample)}


def _is_installed(sample: Sample) -> bool:
    try:
        return sample.path.is_file()
    except ModuleNotFoundError:
        return False


def _thumbnail(path: Path) -> str:
    file = io.BytesIO()
    with Image.open(path) as photo:
        ImageOps.fit(photo.convert("RGB"), (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _sample_route(name: str, sample: Sample) -> Route:
    async def respond(request: Request) -> Response:
        return await (await asyncio.to_thread(File.read, sample.path)).respond(request)

    return Route(f"/samples/{name}", respond)


def media_type(sample: Sample) -> str:
    return _MEDIA_TYPES[sample.path.suffix]


FRONT = File.read(_FOLDER / "index.html").route("/")
# All that a browser must load before it can ask for an API key.
OPEN = [
    FRONT,
    *(File.read(path).route(f"/page/{path.name}") for path in sorted(_FOLDER.iterdir()) if path.suffix != ".html"),
]
ROUTES = [
    *OPEN,
    Route("/labels", _labels),
    Route("/samples", _samples),
    *(_sample_route(*named) for named in installed_samples().items()),
]
