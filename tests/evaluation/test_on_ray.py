"""Ray is an extra; where it is not installed there is nothing here to test."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation.order import Order
from evaluation.parts import RESULTS
from evaluation.run import run
from models.engines import EngineError
from models.served import Served
from service.settings import Settings
from tests.conftest import LITE0
from tests.evaluation.photos import class_folders

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_the_result_is_the_local_one(served: Served, random_head: Path, cache_dir: Path, tmp_path: Path) -> None:
    from evaluation.on_ray import RayWorkers

    photos = class_folders(tmp_path / "photos", 2)
    (photos / "n02123045").mkdir(exist_ok=True)
    (photos / "n02123045" / "junk.jpg").write_bytes(b"junk")
    manifest = tmp_path / "models.toml"
    manifest.write_text(f'[detectors.fcos_random]\narchitecture = "fcos_{LITE0}"\ncheckpoint = "{random_head}"\n')
    settings = Settings(backbones=(LITE0,), detectors=("fcos_random",), models=manifest, cache_dir=cache_dir)
    order = Order(str(photos), ("plain", "cropped", "combined", "random"), seed=3)
    prepared = order.prepare([served.classifier(None).model.label_space])
    plan = prepared.plan([served], threads=2)
    here = run(plan, tmp_path / "here")
    there = run(plan, tmp_path / "there", workers=RayWorkers(order, settings, actors=1))
    assert there["counts"] == here["counts"]
    assert there["broken"] == here["broken"] != []
    assert there["data"] == here["data"]
    assert pq.read_table(tmp_path / "there" / RESULTS).equals(pq.read_table(tmp_path / "here" / RESULTS))
    # Photos that changed since the run was planned are never mixed in.
    (photos / "n02123045" / "new.jpg").write_bytes(b"junk")
    with pytest.raises(EngineError, match="has other data_sha256"):
        run(plan, tmp_path / "changed", workers=RayWorkers(order, settings, actors=1))
