from dataclasses import dataclass, field

import pytest
from python_multipart.multipart import parse_options_header

from service.multipart import MultipartParser, boundary_of
from service.problems import Problem

LIMIT = 10


@dataclass
class Collected:
    found: list[tuple[str, bytes | None]] = field(default_factory=list)

    def begin(self, name: str) -> int:
        if name == "refused":
            raise Problem(422, "no")
        return LIMIT

    def end(self, name: str, data: bytes | None) -> None:
        self.found.append((name, data))


def read(*pieces: bytes, boundary: bytes = b"x") -> list[tuple[str, bytes | None]]:
    collected = Collected()
    parser = MultipartParser(boundary, collected)
    for piece in pieces:
        parser.feed(piece)
    parser.close()
    return collected.found


HEAD = b'Content-Disposition: form-data; name="a"\r\n\r\n'
FORMS: dict[str, tuple[bytes, list[tuple[str, bytes | None]]]] = {
    "nothing": (b"--x--", []),
    "one part": (b"--x\r\n" + HEAD + b"data\r\n--x--\r\n", [("a", b"data")]),
    "two parts": (
        b"--x\r\n" + HEAD + b"1\r\n--x\r\ncontent-disposition:form-data;name=b\r\n\r\n2\r\n--x--",
        [("a", b"1"), ("b", b"2")],
    ),
    "an empty part": (b"--x\r\n" + HEAD + b"\r\n--x--", [("a", b"")]),
    "an empty part without its line": (b"--x\r\n" + HEAD + b"--x--", [("a", b"")]),
    "a part without headers": (b"--x\r\n\r\ndata\r\n--x--", [("", b"data")]),
    "a part of other headers": (b"--x\r\nA: b\r\nContent-Type: image/png\r\n\r\ndata\r\n--x--", [("", b"data")]),
    "line feeds and half boundaries": (b"--x\r\n" + HEAD + b"\r\n--\r\n\r\n\r\n--x--", [("a", b"\r\n--\r\n\r\n")]),
    "just the limit": (b"--x\r\n" + HEAD + b"0123456789\r\n--x--", [("a", b"0123456789")]),
    "above the limit": (b"--x\r\n" + HEAD + b"0123456789a\r\n--x--", [("a", None)]),
    "far above the limit": (
        b"--x\r\n" + HEAD + b"-" * 999 + b"\r\n--x\r\n" + HEAD + b"b\r\n--x--",
        [("a", None), ("a", b"b")],
    ),
    "spaces behind a boundary": (b"--x \t\r\n" + HEAD + b"data\r\n--x--", [("a", b"data")]),
    "a line before the first boundary": (b"\r\n--x\r\n" + HEAD + b"data\r\n--x--", [("a", b"data")]),
    "a preamble and an epilogue": (b"hello\r\n--x\r\n" + HEAD + b"data\r\n--x--\r\nbye\r\n--x\r\n", [("a", b"data")]),
    "a file": (
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        b"data\r\n--x--",
        [("a", b"data")],
    ),
    "quotes in a file's name": (
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="p\\".jpg"\r\n\r\ndata\r\n--x--',
        [("a", b"data")],
    ),
    "a name in UTF-8": (
        '--x\r\nContent-Disposition: form-data; name="é"\r\n\r\ndata\r\n--x--'.encode(),
        [("é", b"data")],
    ),
}


@pytest.mark.parametrize(("body", "expected"), FORMS.values(), ids=FORMS)
def test_a_form_is_read_however_it_is_cut(body: bytes, expected: list[tuple[str, bytes | None]]) -> None:
    assert read(body) == expected
    assert read(*(body[place : place + 1] for place in range(len(body)))) == expected
    for cut in range(len(body)):
        assert read(body[:cut], body[cut:]) == expected


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "early"),
    "another boundary": (b"--y--", "early"),
    "another boundary, and more": (b"--y\r\n" + b"a" * 1000, "does not begin"),
    "a long preamble": (b"a" * 1000 + b"\r\n--x--", "does not begin"),
    "no end": (b"--x\r\n" + HEAD + b"data\r\n", "early"),
    "half an end": (b"--x\r\n" + HEAD + b"data\r\n--x-", "early"),
    "half a head": (b"--x\r\nA: b", "early"),
    "a boundary that goes on": (b"--xy\r\n" + HEAD + b"data\r\n--x--", "more than a boundary"),
    "a boundary and one dash": (b"--x-\r\n" + HEAD + b"data\r\n--x--", "more than a boundary"),
    "a boundary's line without an end": (b"--x" + b" " * 1000, "more than a boundary"),
    "a long head": (b"--x\r\nA: " + b"b" * 10_000 + b"\r\n\r\ndata\r\n--x--", "too long"),
    "boundaries for headers": (b"--x\r\n" * 10_000, "too long"),
}


@pytest.mark.parametrize(("body", "told"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_form_is_refused(body: bytes, told: str) -> None:
    for pieces in ([body], [body[place : place + 7] for place in range(0, len(body), 7)]):
        with pytest.raises(Problem, match=told) as refused:
            read(*pieces)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=----Web'Kit(1)+_./:=?Ab", b"----Web'Kit(1)+_./:=?Ab"),
        ("Multipart/Form-Data;Boundary=x", b"x"),
        ('multipart/form-data; boundary="a b;c"', b"a b;c"),
        ("multipart/form-data; charset=utf-8; boundary=x", b"x"),
        ("multipart/form-data; boundary=x; charset=utf-8", b"x"),
        ("multipart/form-data; boundary=", b""),
        ("multipart/form-data", b""),
        ("", b""),
    ],
)
def test_a_boundary_is_read(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary
    assert parse_options_header(content_type)[1].get(b"boundary", b"") == boundary


@pytest.mark.parametrize("boundary", [b"", b"x" * 300])
def test_a_boundary_must_be_one(boundary: bytes) -> None:
    with pytest.raises(Problem, match="boundary"):
        read(b"--" + boundary + b"--", boundary=boundary)


def test_a_part_is_refused_before_its_data_came() -> None:
    with pytest.raises(Problem, match="no"):
        read(b'--x\r\nContent-Disposition: form-data; name="refused"\r\n\r\n')


def test_no_more_than_a_part_is_held() -> None:
    collected = Collected()
    parser = MultipartParser(b"x", collected)
    parser.feed(b"--x\r\n" + HEAD)
    for _ in range(1000):
        parser.feed(b"-" * 1000)
        assert len(parser._buffer) < 2000
    parser.feed(b"\r\n--x--")
    assert collected.found == [("a", None)]
