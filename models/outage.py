"""Something that is needed and may be away: told in the log once when it goes, and once when it is back."""

import logging
from dataclasses import dataclass


@dataclass
class Outage:
    """`gone`, with the fault behind it, is told at `level`, `back` as a warning. Any thread may read and tell."""

    log: logging.Logger
    level: int
    gone: str
    back: str
    away: bool = False

    def tell(self, fault: str | None) -> None:
        """What is wrong at present; None where nothing is."""
        if fault is not None and not self.away:
            self.log.log(self.level, "%s: %s", self.gone, fault)
        if fault is None and self.away:
            self.log.warning(self.back)
        self.away = fault is not None
