"""Who comes in, how often, and with how much; and what every answer tells a browser."""

import hashlib
import hmac
import math
import time
from collections.abc import Collection, Iterable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Problem
from service.settings import Settings

_HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
_ASKED_HEADERS = "Authorization, Content-Type, X-API-Key, X-Request-ID"
_TOLD_HEADERS = "X-Request-ID, Retry-After"
_PREFLIGHT_SECONDS = 600
_COMPRESSED_FROM = 4096
# Its answers are a few kB, and looking at them would cost 0.1 ms each.
_NEVER_COMPRESSED = frozenset({"/predict"})
# For a page: all that it loads comes from here, no script or style stands in it, and no text becomes HTML. For all
# else: nothing.
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    b"font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_CAREFUL = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class ApiKeys:
    """Known by their hashes, so that every comparison takes the same time, whatever is asked."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_hash(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def find(self, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
        """Which key, counted from 0, a request's raw headers hold; None for none of them."""
        found = None
        for name, value in headers:
            scheme, _, token = value.partition(b" ")
            if name == b"x-api-key":
                token = value
            elif name != b"authorization" or scheme.lower() != b"bearer":
                continue
            given = _hash(token.strip())
            for number, known in enumerate(self._hashes):
                if hmac.compare_digest(given, known):
                    found = number
        return found


class Rates:
    """A bucket of `per_minute` requests for each of `keys` keys, which fills again evenly."""

    def __init__(self, keys: int, per_minute: int) -> None:
        self._interval = 60 / per_minute
        self._most = float(per_minute)
        self._buckets = [(self._most, 0.0)] * keys

    def wait(self, key: int, now: float) -> float:
        """Seconds until the key's next request is welcome; 0: this one is, and has been taken. `now` in seconds."""
        tokens, then = self._buckets[key]
        tokens = min(self._most, tokens + (now - then) / self._interval)
        taken = tokens >= 1
        self._buckets[key] = (tokens - taken, now)
        return 0.0 if taken else (1 - tokens) * self._interval


class Doors:
    """ASGI middleware: OPTIONS and what it may say, API keys, rates. Raises `Problem` (401, 429).

    `methods` by path; the paths in `open_to_all` need no key.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, methods: Mapping[str, Collection[str]], open_to_all: Collection[str]
    ) -> None:
        self.app = app
        self.methods = methods
        self.keys = ApiKeys(key.get_secret_value() for key in settings.api_keys)
        self.rates = Rates(len(settings.api_keys), settings.rate_per_minute) if settings.rate_per_minute else None
        self.open = {*_HEALTH, *open_to_all, *(["/metrics"] if settings.open_metrics else [])}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and scope["path"] in self.methods:
            allowed = ", ".join(sorted({*self.methods[scope["path"]], "OPTIONS"}))
            await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
            return
        if self.keys and scope["path"] not in self.open:
            self._check_key(scope)
        await self.app(scope, receive, send)

    def _check_key(self, scope: Scope) -> None:
        key = self.keys.find(scope["headers"])
        if key is None:
            detail = "Send one of this service's API keys as Authorization: Bearer KEY, or as X-API-Key: KEY."
            raise Problem(401, detail, {"WWW-Authenticate": "Bearer"})
        scope.setdefault("state", {})["api_key"] = key
        seconds = self.rates.wait(key, time.monotonic()) if self.rates else 0.0
        if seconds > 0:
            retry_after = math.ceil(seconds)
            detail = f"This API key asks too often; try again in {retry_after} s."
            raise Problem(429, detail, {"Retry-After": str(retry_after)}, reason="rate")


class Intake:
    """ASGI middleware: bounds the bytes of all bodies that are held at once. Raises `Problem` (429).

    A body's declared length is taken from the room as a whole, so that whoever is let in can finish.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        received, taken = 0, 0

        async def counted() -> Message:
            nonlocal received, taken
            if taken == 0 and declared.isdecimal():
                taken += self._take(int(declared))
            message = await receive()
            received += len(message.get("body", b""))
            if received > taken:
                taken += self._take(received - taken)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.held -= taken

    def _take(self, size: int) -> int:
        if self.held + size > self.max_bytes:
            detail = "The service holds as many bytes of photos as it can; try again in a moment."
            raise Problem(429, detail, {"Retry-After": "1", "Connection": "close"}, reason="bytes_in_flight")
        self.held += size
        return size


class Browsers:
    """ASGI middleware: headers that keep a browser from doing more than it is asked to, and CORS for `origins`."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                is_page = scope["method"] != "POST" and any(
                    name == b"content-type" and value.startswith(b"text/html") for name, value in headers
                )
                policy = (b"content-security-policy", _PAGE_POLICY if is_page else _POLICY)
                message = {**message, "headers": [*headers, *_CAREFUL, policy]}
                if self.origins:
                    self._share(Headers(scope=scope), MutableHeaders(scope=message))
            await send(message)

        await self.app(scope, receive, told)

    def _share(self, asked: Headers, headers: MutableHeaders) -> None:
        headers.add_vary_header("Origin")
        origin = asked.get("origin")
        if origin is None or not self.origins & {origin, "*"}:
            return
        headers["Access-Control-Allow-Origin"] = "*" if "*" in self.origins else origin
        headers["Access-Control-Expose-Headers"] = _TOLD_HEADERS
        if "access-control-request-method" in asked and "allow" in headers:
            headers["Access-Control-Allow-Methods"] = headers["allow"]
            headers["Access-Control-Allow-Headers"] = _ASKED_HEADERS
            headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)


class Compression(GZipMiddleware):
    """ASGI middleware: starlette's, which overlooks that `gzip;q=0` says no."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in _NEVER_COMPRESSED:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http" and not _accepts_gzip(Headers(scope=scope).get("accept-encoding", "")):
            headers = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            scope = {**scope, "headers": headers}
        await super().__call__(scope, receive, send)


def outer(settings: Settings) -> list[Middleware]:
    """What stands before everything that may answer."""
    return [Middleware(Browsers, origins=settings.cors_origins)]


def inner(settings: Settings, routes: Iterable[BaseRoute], open_to_all: Collection[str] = ()) -> list[Middleware]:
    """What stands behind that which turns a `Problem` into an answer; the paths in `open_to_all` need no key."""
    methods = {route.path: route.methods or () for route in routes if isinstance(route, Route)}
    return [
        Middleware(Compression, minimum_size=_COMPRESSED_FROM, compresslevel=4),
        Middleware(Doors, settings=settings, methods=methods, open_to_all=open_to_all),
        Middleware(Intake, max_bytes=settings.max_bytes_in_flight),
    ]


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _accepts_gzip(accept: str) -> bool:
    for part in accept.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
