"""The bodies of forms, multipart/form-data (RFC 7578, 2046), cut into parts as they arrive, within limits."""

import re
from collections.abc import Callable
from typing import Protocol

from python_multipart.multipart import parse_options_header

from service.problems import Problem

# Of one part's headers, and of what may stand before the first boundary and behind a boundary on its line, in bytes.
_MAX_HEAD = 8 * 1024
_MAX_PADDING = 256
_LONGEST_BOUNDARY = 256
# What nearly every client sends; the rest is left to a parser that knows all of RFC 2231.
_PLAIN_BOUNDARY = re.compile(r'multipart/form-data; ?boundary=([^\s"\\;,]+)', re.IGNORECASE)
_PLAIN_DISPOSITION = re.compile(rb'form-data; ?name="([^"\\\\]*)"(?:; ?filename="[^"\\\\]*")?', re.IGNORECASE)


class Parts(Protocol):
    """Who gets the parts. Both may raise."""

    def begin(self, name: str) -> int:
        """A part of that name comes, "" where it has none: the most bytes that it may have."""

    def end(self, name: str, data: bytes | None) -> None:
        """All of it; None where it has more."""


class MultipartParser:
    """Holds a part at a time. Raises `Problem` (400) for what is no form, and what `parts` raises."""

    def __init__(self, boundary: bytes, parts: Parts) -> None:
        if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
            raise _broken("it has no boundary, or one that is too long")
        self._parts = parts
        self._delimiter = b"\r\n--" + boundary
        # The line feed before the first delimiter is not in the body.
        self._buffer = bytearray(b"\r\n")
        self._step: Callable[[], bool] = self._skip_preamble
        self._name = ""
        self._limit = 0
        self._searched = 0
        self._too_long = self._complete = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def close(self) -> None:
        """To be called at the body's end. Raises `Problem` (400) where the form has not ended."""
        if not self._complete:
            raise _broken("it ends too early")

    def _skip_preamble(self) -> bool:
        """Every step: whether it is done, and the next one is to be tried."""
        found = self._find_delimiter()
        if found > _MAX_PADDING or (found < 0 and len(self._buffer) > _MAX_PADDING + len(self._delimiter)):
            raise _broken("it does not begin with its boundary")
        return self._pass_delimiter(found)

    def _end_line(self) -> bool:
        """Behind a delimiter: two dashes end the form, else the line ends, and a part begins."""
        if self._buffer.startswith(b"--"):
            self._complete = True
            self._step = self._ignore
            return True
        end = self._buffer.find(b"\r\n", 0, _MAX_PADDING)
        if end < 0 and len(self._buffer) < _MAX_PADDING:
            return False
        if end < 0 or self._buffer[:end].strip(b" \t"):
            raise _broken("there is more than a boundary on a boundary's line")
        # The line's end stays: with a second one right behind it the part has no headers.
        del self._buffer[:end]
        self._step = self._read_head
        return True

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= _MAX_HEAD:
                raise _broken("the headers of a part are too long")
            return False
        self._name = _name(bytes(self._buffer[:end]))
        self._limit = self._parts.begin(self._name)
        # Its end may be that of the line before a delimiter.
        del self._buffer[: end + 2]
        self._too_long = False
        self._step = self._read_data
        return True

    def _read_data(self) -> bool:
        """The part's data begin two bytes in, behind the end of its head."""
        found = self._find_delimiter()
        size = (found if found >= 0 else self._searched) - 2
        if size > self._limit:
            self._too_long = True
        if found < 0:
            if self._too_long:
                del self._buffer[: self._searched]
                self._searched = 0
            return False
        data = None
        if not self._too_long:
            with memoryview(self._buffer) as view:
                data = bytes(view[2:found])
        self._parts.end(self._name, data)
        return self._pass_delimiter(found)

    def _ignore(self) -> bool:
        self._buffer.clear()
        return False

    def _find_delimiter(self) -> int:
        """Where it is; -1 where it is not, and `_searched` bytes need not be searched again."""
        found = self._buffer.find(self._delimiter, self._searched)
        self._searched = max(0, len(self._buffer) - len(self._delimiter) + 1) if found < 0 else 0
        return found

    def _pass_delimiter(self, found: int) -> bool:
        if found < 0:
            return False
        del self._buffer[: found + len(self._delimiter)]
        self._step = self._end_line
        return True


def boundary_of(content_type: str) -> bytes:
    """What a form's Content-Type says; empty where it says nothing."""
    plain = _PLAIN_BOUNDARY.fullmatch(content_type)
    found = plain[1].encode("latin-1") if plain else parse_options_header(content_type)[1].get(b"boundary", b"")
    return bytes(found)


def _name(head: bytes) -> str:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() != b"content-disposition":
            continue
        plain = _PLAIN_DISPOSITION.fullmatch(value.strip())
        found = plain[1] if plain else parse_options_header(value)[1].get(b"name", b"")
        return found.decode("utf-8", "replace")
    return ""


def _broken(why: str) -> Problem:
    return Problem(400, f"The body is no multipart form: {why}.")
