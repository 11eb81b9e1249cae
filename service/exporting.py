"""A model's export beside serving: in a process that gets little but the time nobody else wants."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from service import loading
from service.settings import Settings, settings

Kind: TypeAlias = Literal["backbones", "detectors"]

_LOOK_SECONDS = 0.1
_GENTLE_SECONDS = 600.0

# Before it imports more, which takes a second of a core. First PR_SET_PDEATHSIG: who has stopped this process, and ends
# in a crash, would never let it go on.
_GENTLY = f"import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {signal.SIGKILL:d}); os.nice(19); "
_EXPORT = "from service.exporting import main; main(*sys.argv[1:])"


class Exporting:
    """One export after the other. Given up once `stopping` is set.

    The system's scheduler alone keeps it out of the way of photos where these take all cores anyhow. A lone photo on
    several of them suffers more: its threads wait for each other, and so for the one that comes second on a core, be it
    by the milliseconds that the kernel needs for something on the export's behalf. So the export is stopped then.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._process: subprocess.Popen[bytes] | None = None
        self._gentle_until = 0.0

    def run(self, kind: Kind, name: str) -> int:
        """Loads the model for the sake of its exports. The process's exit code; if it failed, loading it says why."""
        command = [sys.executable, "-c", _GENTLY + _EXPORT, kind, name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, cwd=Path(__file__).resolve().parents[1])
        self._gentle_until = time.monotonic() + _GENTLE_SECONDS
        self._process = process
        while (code := process.poll()) is None:
            if self._stopping.wait(_LOOK_SECONDS):
                process.kill()
        self._process = None
        return code

    def stand_aside(self, aside: bool) -> None:
        """From now on it does nothing, or goes on; after some minutes it goes on in any case. From any thread."""
        if (process := self._process) is None:
            return
        if not aside:
            process.send_signal(signal.SIGCONT)
        elif time.monotonic() < self._gentle_until:
            process.send_signal(signal.SIGSTOP)


def _yield_at_once() -> None:
    """Linux's SCHED_IDLE, which goes aside as soon as anybody wakes; merely nice after a while.

    Beside a server that is asked all the time it is slower than nice 19, and delays the slowest answers less
    (docs/performance.md); but where nothing ever waits it would take hours.
    """

    def merely_nice() -> None:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # It has just ended.
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))

    with suppress(OSError):  # A container may forbid it.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    timer = threading.Timer(_GENTLE_SECONDS, merely_nice)
    timer.daemon = True
    timer.start()


def only(chosen: Settings, kind: Kind, name: str) -> Settings:
    """The settings with this one model."""
    return chosen.model_copy(update={"backbones": (), "detectors": (), kind: (name,)})


def main(kind: Kind, name: str) -> None:
    """In the process: for one model of the environment's settings."""
    _yield_at_once()
    chosen = only(settings(), kind, name)
    chosen.cache_dir.mkdir(parents=True, exist_ok=True)
    # Of several workers one exports, and the others find what it made.
    with (chosen.cache_dir / "background.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        loading.load(chosen)
