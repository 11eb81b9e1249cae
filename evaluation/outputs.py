"""Where a run is written: a folder of this machine, or any place that fsspec reaches (s3://, gs://, memory://, ...)."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from evaluation.data import DataError
from evaluation.parts import RESULTS, is_part
from evaluation.run import RUN
from evaluation.summary import SUMMARY

_SECONDS_BETWEEN_COPIES = 30
# What a run is taken up from, and what is compared: whatever else lies there stays where it is.
_WANTED = (RUN, RESULTS, SUMMARY)


@dataclass
class Output:
    """A run is worked on in `folder`; one of a URL begins with what is there, and is copied back as it grows."""

    folder: Path
    fs: Any = None
    root: str = ""
    # By name the size and the time of what is there already.
    _kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    _looked: float = 0.0

    @classmethod
    @contextmanager
    def at(cls, out: str) -> Iterator["Output"]:
        """Raises `DataError` for a URL of no such file system, and `OSError`."""
        if "://" not in out:
            yield cls(Path(out))
            return
        try:
            fs, root = fsspec.core.url_to_fs(out)
        except (ValueError, ImportError) as error:
            raise DataError(f"{out}: {error}") from error
        with tempfile.TemporaryDirectory(prefix="figureground-") as folder:
            output = cls(Path(folder), fs, root.rstrip("/"))
            output._fetch()
            try:
                yield output
            finally:
                output._copy()

    def keep(self) -> None:
        """Copies what is new, where the last time was a while ago."""
        if self.fs is not None and time.monotonic() - self._looked > _SECONDS_BETWEEN_COPIES:
            self._copy()

    def _fetch(self) -> None:
        for path in self.fs.find(self.root):
            name = path.removeprefix(self.root).lstrip("/")
            if name not in _WANTED and not is_part(name):
                continue
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(path, str(self.folder / name))
        self._kept = self._here()
        self._looked = time.monotonic()

    def _copy(self) -> None:
        """Whole files only: the results first, so that no part is gone before they are there."""
        here = self._here()
        for name in sorted(name for name, stamp in here.items() if self._kept.get(name) != stamp):
            self.fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(self.folder / name), f"{self.root}/{name}")
        for name in self._kept.keys() - here.keys():
            self.fs.rm_file(f"{self.root}/{name}")
        self._kept = here
        self._looked = time.monotonic()

    def _here(self) -> dict[str, tuple[int, int]]:
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".tmp"]
        stamps = [(path, path.stat()) for path in files]
        return {path.relative_to(self.folder).as_posix(): (stamp.st_size, stamp.st_mtime_ns) for path, stamp in stamps}
