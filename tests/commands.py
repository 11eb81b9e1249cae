"""The command `figureground` in the tests' own process, which has imported already what takes a new one seconds."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

import pytest

from service import cli


def figureground(*arguments: object, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`figureground ARGUMENTS`, with these `FIGUREGROUND_*` alone; it must not start a server."""
    words, code = [str(argument) for argument in arguments], 0
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["figureground", *words])
        # What would take the place of this process.
        patch.setattr(os, "execv", lambda *_: pytest.fail("it starts"))
        for name in [name for name in os.environ if name.startswith("FIGUREGROUND_")]:
            patch.delenv(name)
        for name, value in environment.items():
            if name.startswith("FIGUREGROUND_"):
                patch.setenv(name, value)
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, *(file.buffer.getvalue().decode() for file in (out, err)))
