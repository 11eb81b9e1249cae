"""Clients that go on until they are stopped: what loads a service while something is done to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def crowd(clients: int, work: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Runs `work(number, stop)` in a thread a client; at the end `stop` is set, and all are awaited."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=[number, stop]) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
