"""Feeds broken photos to `models.photo.read_photo` for as long as one likes.

`python -m tests.models.fuzz_photos -n 100000`. An input that gives neither a photo nor a `PhotoError`, or takes long,
is told by its number, which makes it again.
"""

import argparse
import resource
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from models.photo import SERVED_FORMATS, PhotoError, read_photo
from tests.models.mutations import mutant

MAX_PIXELS = 1_000_000
# No input is above a few hundred kB, and a photo of MAX_PIXELS is decoded in a tenth of that.
SLOW_SECONDS = 2.0


@dataclass
class Found:
    """Of a run: outcomes by name, the slowest input's seconds, and how much the process grew, in MB."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    growth: float = 0.0


def fuzz(numbers: range) -> Found:
    found = Found()
    before = resident()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            start = time.process_time()
            outcome = _outcome(number, found)
            seconds = time.process_time() - start
            found.outcomes[outcome] += 1
            found.slowest = max(found.slowest, seconds)
            if seconds > SLOW_SECONDS:
                found.faults.append(f"input {number}: {seconds:.1f} s")
    found.growth = (resident() - before) / 2**20
    return found


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _outcome(number: int, found: Found) -> str:
    try:
        photo = read_photo(mutant(number), MAX_PIXELS)
    except PhotoError as error:
        return type(error).__name__
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        found.faults.append(f"input {number}: {error!r}")
        return "fault"
    if photo.image.mode != "RGB" or photo.format not in SERVED_FORMATS or photo.width * photo.height > MAX_PIXELS:
        found.faults.append(f"input {number}: {photo}")
    return "photo"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--inputs", type=int, default=100_000, help="how many inputs")
    parser.add_argument("--start", type=int, default=0, help="the first input's number")
    arguments = parser.parse_args()
    found = fuzz(range(arguments.start, arguments.start + arguments.inputs))
    print(f"{arguments.inputs} inputs: {dict(found.outcomes)}")
    print(f"slowest {found.slowest:.2f} s, memory grew by {found.growth:.0f} MB")
    for fault in found.faults:
        print(fault)
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
