import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from service import exporting
from service.exporting import Exporting
from tests.waiting import eventually

# In place of an export: it writes down its number, and then how long it has been at work, again and again.
_WORK = (
    "import time; from pathlib import Path; path = Path(sys.argv[2]); "
    "path.with_suffix('.pid').write_text(str(os.getpid()))\nwhile True: path.write_text('x'); time.sleep(0.01)"
)


def is_stopped(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@contextmanager
def running(path: Path) -> Iterator[tuple[Exporting, int, Future[int]]]:
    """An export, the number of its process, and its exit code to come."""
    stopping, number = threading.Event(), path.with_suffix(".pid")
    one = Exporting(stopping)
    with ThreadPoolExecutor() as pool:
        code = pool.submit(one.run, "backbones", str(path))
        try:
            eventually(lambda: number.exists() and number.read_text() != "")
            yield one, int(number.read_text()), code
        finally:
            stopping.set()


def test_it_stands_aside_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_EXPORT", _WORK)
    path = tmp_path / "work"
    with running(path) as (one, pid, code):
        for _ in range(3):
            one.stand_aside(True)
            eventually(lambda: is_stopped(pid))
            path.unlink(missing_ok=True)
            time.sleep(0.1)
            assert not path.exists()
            one.stand_aside(False)
            eventually(path.exists)
        one.stand_aside(True)
    # Also one that does nothing can be given up.
    assert code.result() == -signal.SIGKILL
    one.stand_aside(True)
    one.stand_aside(False)


def test_it_stands_aside_for_some_minutes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_EXPORT", _WORK)
    with running(tmp_path / "work") as (one, pid, _):
        one.stand_aside(True)
        eventually(lambda: is_stopped(pid))
        monkeypatch.setattr(one, "_gentle_until", time.monotonic())
        one.stand_aside(False)
        eventually(lambda: not is_stopped(pid))
        one.stand_aside(True)
        time.sleep(0.1)
        assert not is_stopped(pid)


def test_one_that_stands_aside_ends_with_whoever_stopped_it(tmp_path: Path, environment: Mapping[str, str]) -> None:
    path = tmp_path / "work"
    program = f"""
import os, signal, sys, threading, time
from pathlib import Path
from service import exporting
exporting._EXPORT = {_WORK!r}
one, path = exporting.Exporting(threading.Event()), Path(sys.argv[1])
threading.Thread(target=one.run, args=("backbones", str(path)), daemon=True).start()
while not path.exists():
    time.sleep(0.01)
one.stand_aside(True)
time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(path.with_suffix(".pid").read_text())
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_an_export_yields_at_once_and_after_a_while_a_little_less(environment: Mapping[str, str]) -> None:
    program = (
        "import os, time; from service import exporting; exporting._GENTLE_SECONDS = 0.2; "
        "exporting._yield_at_once(); print(os.sched_getscheduler(0) == os.SCHED_IDLE); time.sleep(1); "
        "print(os.sched_getscheduler(0) == os.SCHED_OTHER, os.nice(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.nice(19); {program}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "True", "19"]
