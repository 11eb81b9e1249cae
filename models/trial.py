"""Photos of rare kinds are decoded first in a process that can be killed, where all they can break is that.

A thread cannot be stopped, and a fault in native code ends its process. So a file of `structure.is_rare` is put on
trial: a child process of bounded processor time and memory decodes it, and says whether that went well. Only bytes go
in and only words come out; what passes is decoded again where its pixels are wanted. Photos of the common kinds, whose
work `models.structure` bounds, know nothing of this.
"""

import json
import logging
import os
import resource
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from models.outage import Outage
from models.photo import PhotoError, TooManyPixels, UnreadablePhoto, UnservedFormat, read_photo
from models.structure import is_rare

log = logging.getLogger("figureground.trial")

# What decoding may need beside Python, in bytes: for each pixel, and for tables and the file itself.
_BYTES_A_PIXEL = 14
_BYTES = 128 * 2**20
# On a busy machine a second of processor time takes longer than a second.
_PATIENCE = 4
# What it takes to start a child there.
_START_SECONDS = 20
_LENGTH = 8
_KINDS = {kind.__name__: kind for kind in (UnreadablePhoto, UnservedFormat, TooManyPixels)}
# Threads of their own would count as memory: one arena, no BLAS.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# What it takes to find Python's libraries; keys and the database's password are not for who may be broken into.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "HOME")


class NoTrial(Exception):
    """The child cannot be started, for lack of memory or of processes: that says nothing of the photo."""

    def __init__(self, told: str = "Photos of this kind cannot be read at present; try again in a moment.") -> None:
        super().__init__(told)


class Trial:
    """Safe from several threads; each that is at it has a child of its own, which the next one takes over.

    A photo may take `seconds` of processor time, and the memory that one of `max_pixels` needs.
    """

    def __init__(self, max_pixels: int, seconds: int) -> None:
        self._limits = (max_pixels, seconds)
        self._idle: list[_Child] = []
        self._outage = Outage(
            log,
            logging.ERROR,
            "no process can be started that tries TIFF, AVIF and JPEG of many scans",
            "TIFF, AVIF and JPEG of many scans are tried again",
        )

    def check(self, data: bytes) -> None:
        """Raises `PhotoError` for a file of a rare kind that is no photo, or cannot be decoded within the limits.

        Raises `NoTrial` where that cannot be found out.
        """
        if not is_rare(data):
            return
        child = self._child()
        try:
            told = child.ask(data)
        except (OSError, EOFError) as error:
            child.kill()
            raise UnreadablePhoto(
                "Decoding the image takes too much time or memory, or fails; save the photo anew and send that."
            ) from error
        self._idle.append(child)
        if told is not None:
            kind, message = told
            raise _KINDS.get(kind, UnreadablePhoto)(message)

    def _child(self) -> "_Child":
        """An idle one; one that has died meanwhile, of lack of memory or by someone's hand, is no photo's fault."""
        while self._idle:
            try:
                child = self._idle.pop()
            except IndexError:  # Another thread was faster.
                break
            if child.process.poll() is None:
                return child
            child.kill()
        try:
            child = _Child.start(*self._limits)
        except (OSError, EOFError) as error:
            self._outage.tell(f"{type(error).__name__} {error}")
            raise NoTrial from error
        self._outage.tell(None)
        return child

    def close(self) -> None:
        """Ends the children that are idle."""
        while self._idle:
            self._idle.pop().kill()


@dataclass
class _Child:
    process: "subprocess.Popen[bytes]"
    seconds: int

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    @classmethod
    def start(cls, max_pixels: int, seconds: int) -> "_Child":
        """Once it is ready. Raises `OSError` or `EOFError`.

        What native decoders write to standard error is nobody's business.
        """
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(max_pixels), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**inherited, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        child = cls(process, seconds)
        try:
            child._answer(_START_SECONDS)
        except (OSError, EOFError):
            child.kill()
            raise
        return child

    def ask(self, data: bytes) -> list[str] | None:
        """The kind and the message of the error that it meets, None for a photo.

        Raises `OSError` or `EOFError` where it dies of it, or takes too long.
        """
        source, _ = self._pipes
        source.write(len(data).to_bytes(_LENGTH) + data)
        source.flush()
        told: list[str] | None = json.loads(self._answer(_PATIENCE * self.seconds))
        return told

    def _answer(self, seconds: int) -> bytes:
        _, answers = self._pipes
        waiting = select.poll()
        waiting.register(answers, select.POLLIN)
        if not waiting.poll(1000 * seconds):
            raise TimeoutError(f"no word from it in {seconds} s")
        return _read(answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in self._pipes:
            try:
                pipe.close()
            except BrokenPipeError:  # What was not yet written to it is for nobody any more.
                continue


def _read(source: IO[bytes]) -> bytes:
    """What was written with its length before it. Raises `EOFError`."""
    length = source.read(_LENGTH)
    data = source.read(int.from_bytes(length))
    if len(length) < _LENGTH or len(data) < int.from_bytes(length):
        raise EOFError("it has ended")
    return data


def _judge(data: bytes, max_pixels: int) -> bytes:
    try:
        read_photo(data, max_pixels)
    except PhotoError as error:
        return json.dumps([type(error).__name__, str(error)]).encode()
    return b"null"


def _bound_memory(allowed: int) -> None:
    """In bytes beyond what the process has now. Where that cannot be told (it is Linux's to tell), nothing is bound."""
    try:
        now = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + allowed, now + allowed))


def _bound_time(seconds: int) -> None:
    """Of the processor, from now; it counts from the process's start, in whole seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, most))


def _serve(max_pixels: int, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound_memory(max_pixels * _BYTES_A_PIXEL + _BYTES)
    _write(b"")
    while True:
        try:
            data = _read(sys.stdin.buffer)
        except EOFError:
            return
        _bound_time(seconds)
        _write(_judge(data, max_pixels))


def _write(answer: bytes) -> None:
    sys.stdout.buffer.write(len(answer).to_bytes(_LENGTH) + answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
