"""Real decoders at real work: what takes too long, needs too much or dies costs the next photo nothing."""

import io
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from models.photo import TooManyPixels, UnreadablePhoto, read_photo
from models.structure import is_rare
from models.trial import NoTrial, Trial
from tests.models.mutations import LYING_AVIF, seeds
from tests.models.test_structure import encoded

MAX_PIXELS = 1_000_000


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    chosen = Trial(MAX_PIXELS, seconds=1)
    yield chosen
    chosen.close()


def jpeg_of_scans(count: int, side: int) -> bytes:
    """Each scan is a pass over all pixels."""
    jpeg = encoded("JPEG", (side, side), "L", progressive=True, quality=1)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * (count - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def test_rare_kinds_are_those_few_send() -> None:
    rare = {name for name, data in seeds().items() if is_rare(data)}
    assert rare == {name for name in seeds() if name.startswith(("TIFF", "AVIF"))}
    assert is_rare(jpeg_of_scans(20, 16))


def test_what_can_be_decoded_passes(trial: Trial) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(trial.check, list(seeds().values()) * 3))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (encoded("TIFF")[:-40], UnreadablePhoto),
        (encoded("AVIF")[:200], UnreadablePhoto),
        (encoded("TIFF", (1001, 1000)), TooManyPixels),
    ],
)
def test_its_errors_are_the_decoders(trial: Trial, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as told:
        trial.check(data)
    with pytest.raises(error) as expected:
        read_photo(data, MAX_PIXELS)
    assert str(told.value) == str(expected.value)


def test_a_file_that_eats_memory_is_cut_off(trial: Trial) -> None:
    """Its 1.8 kB call themselves 16 px wide, and half a GB is needed to find out that they are 12,000."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadablePhoto):
        trial.check(LYING_AVIF)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    trial.check(encoded("AVIF"))


def test_a_file_that_takes_too_long_is_cut_off() -> None:
    """64 scans over 144 million pixels are seconds of work, also for a fast machine, in half a MB."""
    trial = Trial(150_000_000, seconds=1)
    with pytest.raises(UnreadablePhoto, match="too much time or memory"):
        trial.check(jpeg_of_scans(64, 12_000))
    trial.check(encoded("TIFF"))
    trial.close()


def test_a_child_that_died_costs_no_photo_its_answer(trial: Trial) -> None:
    trial.check(encoded("TIFF"))
    for child in trial._idle:
        os.kill(child.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    trial.check(encoded("TIFF"))


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_a_child_that_cannot_be_started_is_no_photos_fault(
    executable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and once more when it is over."""
    trial = Trial(MAX_PIXELS, seconds=5)
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", executable)
        for _ in range(2):
            with pytest.raises(NoTrial, match="cannot be read at present"):
                trial.check(encoded("TIFF"))
    trial.check(encoded("TIFF"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    trial.close()


def test_a_child_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIGUREGROUND_API_KEYS", "0123456789-abcdef")
    trial = Trial(MAX_PIXELS, seconds=5)
    trial.check(encoded("TIFF"))
    (child,) = trial._idle
    known = Path(f"/proc/{child.process.pid}/environ")
    if not known.exists():
        pytest.skip("only Linux tells the environment of a process")
    assert b"PYTHONPATH" in known.read_bytes()
    assert b"0123456789-abcdef" not in known.read_bytes()
    trial.close()


def test_decoders_say_nothing_on_standard_error(trial: Trial, capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "TIFF", compression="tiff_lzw")
    broken = bytearray(file.getvalue())
    broken[100:200] = b"\xff" * 100
    with pytest.raises(UnreadablePhoto):
        read_photo(bytes(broken))
    assert capfd.readouterr().err
    with pytest.raises(UnreadablePhoto):
        trial.check(bytes(broken))
    assert not capfd.readouterr().err
