"""A fixed number of broken photos; `python -m tests.models.fuzz_photos` tries more."""

import warnings

import pytest
from PIL import Image, ImageFile

from models.photo import SERVED_FORMATS, read_photo
from tests.models.fuzz_photos import fuzz
from tests.models.mutations import mutant, seeds

INPUTS = 3000
# Pillow keeps some tables, and the allocator some arenas.
MAX_GROWTH_MB = 100


@pytest.mark.filterwarnings("ignore")
def test_every_seed_is_a_photo() -> None:
    assert {read_photo(data).format for data in seeds().values()} == set(SERVED_FORMATS)


def test_broken_photos_give_a_photo_or_a_photo_error() -> None:
    found = fuzz(range(INPUTS))
    assert not found.faults
    assert found.growth < MAX_GROWTH_MB
    # It is of use only while it reaches the decoders, and breaks them.
    assert found.outcomes["photo"] > INPUTS / 10
    assert found.outcomes["UnreadablePhoto"] > INPUTS / 10
    assert found.outcomes["TooManyPixels"] > 0


def test_an_input_is_made_again_by_its_number() -> None:
    assert [mutant(number) for number in range(50)] == [mutant(number) for number in range(50)]


def test_truncated_images_stay_off() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_only_plugins_of_served_formats_see_what_a_client_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name, (factory, accept) in list(Image.OPEN.items()):

        def watching(prefix: bytes, name: str = name, accept: object = accept) -> object:
            asked.append(name)
            return accept(prefix) if callable(accept) else True

        monkeypatch.setitem(Image.OPEN, name, (factory, watching))
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7", b"SIMPLE  =", b"\x00\x00\x01\x00", bytes(64)):
        with pytest.raises(ValueError, match="send"):
            read_photo(data)
    assert set(asked) <= set(SERVED_FORMATS)


def test_warnings_of_decompression_bombs_are_no_photo_errors_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its own limit, and `-W error` makes exceptions of that: neither decides what is served."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(seeds()["PNG"], 56 * 40).size == (56, 40)
