"""Eight-bit copies of exported classifiers: static quantisation by ONNX Runtime, calibrated on an operator's photos.

They pay on processors with VNNI or its like; `python -m loadtests.int8` measures what they gain and cost on yours.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.photo import PhotoError, read_photo

log = logging.getLogger("figureground.quantised")

# More photos change the ranges little, and their activations are all held in memory at once.
_MOST_PHOTOS = 100
_LEAST_PHOTOS = 8
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"}

Pixels = NDArray[np.uint8]


class CalibrationError(ValueError):
    """The photos are of no use; the message is one line for the operator."""


@dataclass(frozen=True)
class Calibration:
    """A folder of photos like those that will be asked about; of many, every n-th is taken."""

    folder: Path

    @cached_property
    def paths(self) -> list[Path]:
        """Raises `CalibrationError`."""
        found = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        found = found[:: max(1, len(found) // _MOST_PHOTOS)][:_MOST_PHOTOS]
        if len(found) < _LEAST_PHOTOS:
            raise CalibrationError(
                f"{str(self.folder)!r} holds fewer than {_LEAST_PHOTOS} photos to calibrate int8 with"
            )
        return found

    @cached_property
    def digest(self) -> str:
        """Of the photos' bytes."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:12]

    def views(self, view: Callable[[Any], Pixels]) -> list[Pixels]:
        """(1, S, S, 3) each. Raises `CalibrationError`."""
        found = []
        for path in self.paths:
            try:
                found.append(view(read_photo(path.read_bytes()))[None])
            except PhotoError as error:
                raise CalibrationError(f"{path.name} cannot calibrate int8: {error}") from error
        return found


def quantised(path: Path, view: Callable[[Any], Pixels], calibration: Calibration) -> Path:
    """The eight-bit copy of an exported classifier, which is made beside it if it is not there.

    `view` gives the pixels (S, S, 3) that the classifier sees of a photo. Raises `CalibrationError`.
    """
    found = path.with_name(f"{path.stem}.int8-{calibration.digest}.onnx")
    if found.exists():
        return found
    log.info("quantising %s (once)", path.stem)
    views = calibration.views(view)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / "model.onnx"
        _quantise(path, fresh, Path(folder) / "prepared.onnx", views)
        # Whole or not at all, also where several processes start at once.
        fresh.replace(found)
    return found


def is_quantised(path: Path) -> bool:
    """Whether there is an eight-bit copy of an exported classifier, calibrated on whatever photos."""
    return any(path.parent.glob(f"{path.stem}.int8-*.onnx"))


def _quantise(source: Path, out: Path, prepared: Path, views: Sequence[Pixels]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Views(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(views)

        def get_next(self) -> dict[str, Pixels] | None:
            pixels = next(self.left, None)
            return None if pixels is None else {"pixels": pixels}

    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Views(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
