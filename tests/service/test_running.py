import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from service.running import ended_in_order

_PROGRAM = """
import signal
import time
from pathlib import Path
from service.running import running_service

# Under nohup, which the tests may be started by, it is ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with running_service(output=Path("log")) as service:
    print(service.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_told_to_end_stops_its_service(ends: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, cwd=tmp_path, env=environment, text=True
    )
    with program:
        assert program.stdout is not None
        service = psutil.Process(int(program.stdout.readline()))
        program.send_signal(ends)
        assert program.wait(60) == 128 + ends
    assert not service.is_running()


def test_signals_are_as_before_afterwards_and_for_whoever_handles_them() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_in_order():
        ours = signal.getsignal(signal.SIGTERM)
        with ended_in_order():
            assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.getsignal(signal.SIGTERM) is ours
    assert signal.getsignal(signal.SIGTERM) is before


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone() -> None:
    found = []

    def use() -> None:
        with ended_in_order():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
