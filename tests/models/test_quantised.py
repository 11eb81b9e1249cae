from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageOps

from models import views
from models.backbones import bundled_backbone
from models.engines import EngineError, make_engine
from models.photo import Photo
from models.quantised import Calibration, CalibrationError, is_quantised
from tests.conftest import LITE0


@pytest.fixture(scope="module")
def folder(samples: Mapping[str, Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen photos: the samples, and their mirror images."""
    made = tmp_path_factory.mktemp("calibration")
    for name, photo in samples.items():
        photo.image.save(made / f"{name}.png")
        ImageOps.mirror(photo.image).save(made / f"{name}-mirrored.png")
    return made


def test_int8_answers_nearly_as_float_does_and_is_made_once(
    folder: Path, samples: Mapping[str, Photo], cache_dir: Path
) -> None:
    backbone = bundled_backbone(LITE0)
    graph = backbone.graph()
    pixels = np.stack([views.plain(photo, backbone.preprocessing) for photo in samples.values()])
    (expected,) = make_engine(graph, "onnxruntime", "cpu", cache_dir).run(pixels)
    engine = make_engine(graph, "int8", "cpu", cache_dir, calibration=Calibration(folder))
    (found,) = engine.run(pixels)
    assert engine.name == "int8"
    path = graph.find(cache_dir)
    assert path is not None
    assert is_quantised(path)
    exports = path.parent
    assert not np.array_equal(found, expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    made = {path: path.stat().st_mtime_ns for path in exports.glob("*.int8-*")}
    (again,) = make_engine(graph, "int8", "cpu", cache_dir, calibration=Calibration(folder)).run(pixels)
    np.testing.assert_array_equal(again, found)
    assert {path: path.stat().st_mtime_ns for path in exports.glob("*.int8-*")} == made


def test_int8_needs_photos(cache_dir: Path) -> None:
    with pytest.raises(EngineError, match="FIGUREGROUND_CALIBRATION"):
        make_engine(bundled_backbone(LITE0).graph(), "int8", "cpu", cache_dir)


@pytest.mark.parametrize(("count", "told"), [(0, "fewer than 8"), (7, "fewer than 8"), (8, "0.jpg cannot calibrate")])
def test_useless_photos(count: int, told: str, tmp_path: Path) -> None:
    for number in range(count):
        (tmp_path / f"{number}.jpg").write_bytes(b"junk")
    with pytest.raises(CalibrationError, match=told):
        Calibration(tmp_path).views(lambda photo: np.asarray(photo.image))


def test_of_many_photos_a_hundred_are_taken_from_everywhere(tmp_path: Path) -> None:
    for number in range(450):
        (tmp_path / f"{number:03d}.jpg").write_bytes(bytes([number % 256]))
    (tmp_path / "labels.csv").touch()
    paths = Calibration(tmp_path).paths
    assert len(paths) == 100
    assert int(paths[-1].stem) > 390
