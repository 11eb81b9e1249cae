"""Figureground with its models taken out: every photo gets the first one's outcome, all else is as always.

bentoml serve loadtests.rivals.empty_figureground:Figureground
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service import answering, app
from service.outcomes import Asked, Outcome

_patched: Any = answering
_really = _patched.outcomes_of
_kept: list[Outcome] = []


def outcomes_of(asked: Sequence[Asked], *how: Any) -> list[Outcome]:
    if not _kept:
        _kept.append(_really(asked[:1], *how)[0])
    return [replace(_kept[0], ended_ns=time.time_ns()) for _ in asked]


_patched.outcomes_of = outcomes_of
Figureground = app.Figureground
