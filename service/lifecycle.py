"""How a worker stops: it says so first, then closes its socket, then finishes what it took."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType


def drain_before_stopping(drain: Callable[[], None], seconds: float) -> None:
    """On SIGTERM or SIGINT, `drain` at once, and `seconds` later let the server do what it had in mind.

    To be called in the main thread with the server's event loop running, once the server has set its handlers.
    """
    loop = asyncio.get_running_loop()

    for number in (signal.SIGTERM, signal.SIGINT):
        stop = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None, stop: object = stop) -> None:
            drain()
            if callable(stop):
                loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, frame)

        signal.signal(number, handle)
