"""From an HTTP request to a photo's bytes and options: multipart, raw bytes or JSON, held in memory, within limits."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import bentoml
import orjson
from bentoml.validators import ContentType
from pydantic import Field
from starlette.requests import ClientDisconnect, Request

from models.comparison import Options
from service.multipart import MultipartParser, boundary_of
from service.options import OptionFields
from service.problems import Problem

T = TypeVar("T")

# What a body may hold beside the photo: part headers, boundaries, JSON keys and options; and one text field, in bytes.
_ALLOWANCE = 64 * 1024
_MAX_TEXT = 4 * 1024
# Photos apart, more form fields than there are options help nobody.
_MAX_TEXTS = 16
_DEFAULT_OPTIONS = OptionFields().as_options()


@dataclass(frozen=True, slots=True)
class Limits:
    """`photo_bytes` of one photo's file; `photos` in one batch."""

    photo_bytes: int
    photos: int


@dataclass(frozen=True, slots=True)
class Upload:
    """What one request brings. `photos` are the files' bytes, None for one that is above the limit."""

    photos: list[bytes | None]
    options: Options


class _Unread(bentoml.IODescriptor, OptionFields):
    """An input as OpenAPI and BentoML's clients see it.

    The endpoint reads the body itself: an error raised here would be answered by BentoML in its own way.
    """

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:  # noqa: ARG003
        nothing: dict[str, Any] = dict.fromkeys(cls.model_fields)
        return cls.model_construct(**nothing)


class PhotoFields(_Unread):
    """The input of /predict."""

    image: Annotated[Path, ContentType("image/*")] = Field(description="one photo")


class BatchFields(_Unread):
    """The input of /predict/batch; the options hold for all photos."""

    images: list[Annotated[Path, ContentType("image/*")]] = Field(description="photos, in order")


async def read_photo_request(request: Request, limits: Limits) -> Upload:
    """The photo and options of a POST /predict, in any of its three forms.

    Raises `Problem` (400, 413, 415, 422), `pydantic.ValidationError` for an option, and starlette's
    `ClientDisconnect`.
    """
    content_type = media_type(request)
    if content_type == "multipart/form-data":
        form = await _read_form(request, "image", Limits(limits.photo_bytes, 1))
        photos, texts = form.photos, form.texts
    elif content_type == "application/json":
        photos, texts = _parse_json(await read_body(request, limits.photo_bytes * 4 // 3 + _ALLOWANCE))
    elif content_type.startswith("image/") or content_type == "application/octet-stream":
        photos, texts = [await read_body(request, limits.photo_bytes)], []
    else:
        raise Problem(415, "Send multipart/form-data, an image/* type, application/octet-stream or JSON.")
    if not photos:
        raise Problem(422, "The field image is missing.")
    if photos[0] is None or len(photos[0]) > limits.photo_bytes:
        raise too_many_bytes(limits.photo_bytes)
    return Upload(photos, _options(request, texts))


async def read_batch_request(request: Request, limits: Limits) -> Upload:
    """The photos and options of a POST /predict/batch; a photo that is too large does not spoil the others.

    Raises as `read_photo_request` does.
    """
    if media_type(request) != "multipart/form-data":
        raise Problem(415, "Send multipart/form-data with repeated images.")
    form = await _read_form(request, "images", limits)
    if not form.photos:
        raise Problem(422, "The field images is missing.")
    return Upload(form.photos, _options(request, form.texts))


async def while_connected(request: Request, work: asyncio.Future[T]) -> T:
    """The work's result; the work is cancelled when the client goes away (`service.connections.Connection` tells).

    Raises `ClientDisconnect` then, and what the work raises.
    """
    left: asyncio.Future[None] = request.state.client_left

    def drop(_: asyncio.Future[None]) -> None:
        work.cancel()

    left.add_done_callback(drop)
    try:
        return await work
    except asyncio.CancelledError:
        if left.done():
            raise ClientDisconnect from None
        raise
    finally:
        left.remove_done_callback(drop)


def media_type(request: Request) -> str:
    """Of its body, in lower case and without parameters."""
    return header(request, b"content-type").partition(";")[0].strip().lower()


def header(request: Request, name: bytes, otherwise: str = "") -> str:
    """The first of that name, which is in lower case. Starlette's mapping goes through all of them in Python."""
    found: bytes | None = dict(reversed(request.scope["headers"])).get(name)
    return otherwise if found is None else found.decode("latin-1")


def wants_png(accept: str) -> bool:
    """Whether an Accept header names image/png before JSON or anything."""
    for part in accept.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type in ("image/png", "application/json", "*/*"):
            return media_type == "image/png"
    return False


def too_many_bytes(limit: int) -> Problem:
    return Problem(413, f"The photo has too many bytes; send one of at most {limit} bytes.")


def _options(request: Request, texts: Sequence[tuple[str, Any]]) -> Options:
    if not texts and not request.scope["query_string"]:
        return _DEFAULT_OPTIONS
    chosen = one_of_each([*request.query_params.multi_items(), *texts])
    given = {name: value for name, value in chosen.items() if value is not None}
    return OptionFields.model_validate(given).as_options()


def one_of_each(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Raises `Problem` (422) for a name that is there twice."""
    chosen: dict[str, Any] = {}
    for name, value in pairs:
        if name in chosen:
            raise Problem(422, f"{name[:100]} is given more than once.")
        chosen[name] = value
    return chosen


async def _chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives, cut off where it exceeds `limit` bytes, at once where it says so beforehand."""
    coding = header(request, b"content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Problem(415, "Send the body without a Content-Encoding.", {"Accept-Encoding": "identity"})
    declared = header(request, b"content-length")
    if declared.isdecimal() and int(declared) > limit:
        raise _cut_off(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _cut_off(limit)
        yield chunk


def _cut_off(limit: int) -> Problem:
    return Problem(413, f"The body has more than {limit} bytes.", {"Connection": "close"})


async def read_body(request: Request, limit: int) -> bytes:
    """All of it. Raises `Problem`: 413 above `limit` bytes, 415 where it is compressed; and `ClientDisconnect`."""
    return b"".join([chunk async for chunk in _chunks(request, limit)])


def json_object(body: bytes, expected: str) -> dict[str, Any]:
    """Raises `Problem`: 400 for what is no JSON, 422 with the detail `expected` for what is no object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Problem(400, "The body is no JSON.") from None
    if not isinstance(document, dict):
        raise Problem(422, expected)
    return document


def _parse_json(body: bytes) -> tuple[list[bytes | None], list[tuple[str, Any]]]:
    document = json_object(body, 'The body must be a JSON object, {"image": "<base64>"}.')
    encoded = document.pop("image", None)
    if encoded is None:
        return [], []
    if not isinstance(encoded, str):
        raise Problem(422, "image must be a text, the photo in base64.")
    try:
        return [base64.b64decode(encoded, validate=True)], list(document.items())
    except (binascii.Error, ValueError):
        raise Problem(400, "image is no base64.") from None


async def _read_form(request: Request, photo: str, limits: Limits) -> "_Form":
    form = _Form(photo, limits)
    parser = MultipartParser(boundary_of(header(request, b"content-type")), form)
    async for chunk in _chunks(request, limits.photos * limits.photo_bytes + _ALLOWANCE):
        parser.feed(chunk)
    parser.close()
    return form


@dataclass
class _Form:
    """Collects a multipart body part by part, in memory: `photos` from parts named `photo`, the rest as texts."""

    photo: str
    limits: Limits
    photos: list[bytes | None] = field(default_factory=list)
    texts: list[tuple[str, Any]] = field(default_factory=list)

    def begin(self, name: str) -> int:
        if name == self.photo:
            if len(self.photos) == self.limits.photos:
                raise Problem(422, f"Send at most {self.limits.photos} {self.photo} at once.")
            return self.limits.photo_bytes
        if len(self.texts) == _MAX_TEXTS:
            raise Problem(422, "The form has too many fields.")
        return _MAX_TEXT

    def end(self, name: str, data: bytes | None) -> None:
        if name == self.photo:
            self.photos.append(data)
        elif data is None:
            raise Problem(422, f"The field {name[:100]} is too long.")
        else:
            self.texts.append((name, _text_value(data.decode("utf-8", "replace"))))


def _text_value(text: str) -> Any:
    """A form field's value; BentoML's client sends texts quoted, arrays, and null as JSON."""
    if text[:1] in ('"', "[") or text == "null":
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text
