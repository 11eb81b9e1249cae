import logging

import pytest

from models.outage import Outage


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([None, None], []),
        (["full", "full", "locked"], [(logging.ERROR, "it is away: full")]),
        (["full", None, None], [(logging.ERROR, "it is away: full"), (logging.WARNING, "it is back")]),
        (["a", None, "100 %s"], [(40, "it is away: a"), (30, "it is back"), (40, "it is away: 100 %s")]),
    ],
)
def test_a_change_is_told_once(
    faults: list[str | None], told: list[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(logging.getLogger("figureground.test"), logging.ERROR, "it is away", "it is back")
    assert not outage.away
    for fault in faults:
        outage.tell(fault)
        assert outage.away is (fault is not None)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == told
