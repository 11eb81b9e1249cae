"""Files of a folder, on this machine or anywhere that fsspec reaches (s3://, gs://, memory://, ...)."""

from dataclasses import dataclass
from typing import Any

import fsspec

from evaluation.data.listing import DataError


@dataclass(frozen=True)
class Place:
    """A file or a folder. `root` is its path inside the file system, without the URL's scheme."""

    url: str
    fs: Any
    root: str

    def at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def read(self, path: str = "") -> bytes:
        """Raises `OSError`."""
        with self.fs.open(self.at(path), "rb") as file:
            return bytes(file.read())

    def read_part(self, path: str, offset: int, size: int) -> bytes:
        """Raises `OSError`, also for a file that ends too early."""
        with self.fs.open(self.at(path), "rb") as file:
            file.seek(offset)
            data = bytes(file.read(size))
        if len(data) != size:
            raise OSError(f"{path} is truncated")
        return data

    def has(self, path: str) -> bool:
        return bool(self.fs.exists(self.at(path)))

    def is_file(self) -> bool:
        return bool(self.fs.isfile(self.root))

    def files(self) -> list[str]:
        """All files under the folder, sorted, relative to it, with forward slashes."""
        # Links to photos are photos: fsspec's local walk follows them as files.
        return sorted(name.removeprefix(self.root).lstrip("/") for name in self.fs.find(self.root))

    def folder(self) -> "Place":
        """Where a file lies."""
        return Place(self.url.rpartition("/")[0], self.fs, self.root.rpartition("/")[0])


def place(url: str) -> Place:
    """Raises `DataError` where there is nothing, or no such kind of place."""
    try:
        fs, root = fsspec.core.url_to_fs(url)
        found = Place(url, fs, root.rstrip("/"))
        exists = found.fs.exists(found.root)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(f"{url}: {error}") from error
    if not exists:
        raise DataError(f"{url}: no such file or folder")
    return found


def expand(url: str) -> list[Place]:
    """The files that a pattern with `*`, `?` or `{000..127}` names, sorted; the one place itself without any."""
    if not any(mark in url for mark in "*?{"):
        return [place(url)]
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DataError(f"{url}: {error}") from error
    found = sorted({name for pattern in _braces(root) for name in fs.glob(pattern)})
    if not found:
        raise DataError(f"{url}: no such file")
    return [Place(str(fs.unstrip_protocol(name)), fs, str(name)) for name in found]


def _braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` -> its three names, as WebDataset users write shards."""
    head, opened, rest = pattern.partition("{")
    inside, closed, tail = rest.partition("}")
    if not opened or not closed:
        return [pattern]
    low, dots, high = inside.partition("..")
    if dots and low.isdecimal() and high.isdecimal():
        choices = [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    else:
        choices = inside.split(",")
    return [head + choice + end for choice in choices for end in _braces(tail)]
