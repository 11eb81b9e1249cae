import subprocess
import sys
from collections.abc import Mapping

from models.served import Served


def test_a_rolling_restart_loses_nothing(environment: Mapping[str, str], served: Served) -> None:  # noqa: ARG001 exports
    """The program itself, which has to hold its own servers in order."""
    command = [sys.executable, "-m", "loadtests.restart", "--times", "2"]
    run = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    told = run.stdout.replace("\n", " ")
    assert told.startswith("PASSED: 2 stops under load")
    assert "exit codes {0: 2}, 0 lost, 0 shed without Retry-After" in told
