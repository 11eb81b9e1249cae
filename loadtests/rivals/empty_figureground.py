"""Figureground with its models taken out: every photo gets the first one's outcome, all else is as always.

bentoml serve loadtests.rivals.empty_figureground:Figureground
"""

import time
from dataclasses import replace
from typing import Any

from service import answering, app
from service.outcomes import Outcome

_patched: Any = answering
_really = _patched.outcome_of
_kept: list[Outcome] = []


def outcome_of(*photo_and_options: Any) -> Outcome:
    if not _kept:
        _kept.append(_really(*photo_and_options))
    return replace(_kept[0], ended_ns=time.time_ns())


_patched.outcome_of = outcome_of
Figureground = app.Figureground
