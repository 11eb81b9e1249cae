import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation.data import DataSet
from evaluation.parts import RESULTS, SCHEMA, Parts, Photos
from evaluation.run import RUN, OtherRun, Plan, clear, run
from models.served import Served
from tests.evaluation.photos import WNIDS, class_folders
from tests.evaluation.resumable import ARMS, load_from, plan_of

COPIES = 4
PHOTOS = COPIES * len(WNIDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data"), COPIES)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, random_head: Path) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "models.toml"
    path.write_text(
        f'[detectors.fcos_random]\narchitecture = "fcos_tf_efficientnet_lite0.in1k"\ncheckpoint = "{random_head}"\n'
    )
    return path


@pytest.fixture(scope="module")
def plan(data: Path, served: Served) -> Plan:
    return plan_of(data, served)


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    run(plan, out)
    return out


def test_a_whole_run(whole: Path, plan: Plan) -> None:
    table = pq.read_table(whole / RESULTS)
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == PHOTOS * 2 * len(ARMS)
    described = json.loads((whole / RUN).read_text())
    assert described["finished"] is True
    assert described["counts"] == {"photos": PHOTOS, "broken": 0, "resumed": 0, "rows": table.num_rows}
    assert described["models"]["backbones"][0]["sha256"] == plan.served[0].classifier(None).model.sha256
    assert described["settings"]["label_spaces"] == ["imagenet-1k", "data set"]
    assert sorted(path.name for path in whole.iterdir()) == [RESULTS, RUN]


def test_a_killed_run_is_taken_up_without_doing_work_twice(
    data: Path, served: Served, cache_dir: Path, manifest: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.evaluation.resumable", str(data), str(out), str(cache_dir), str(manifest)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not list((out / "parts").glob("*.parquet")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = len(Parts(out).done())
    assert 0 < done < PHOTOS // 2
    assert not (out / RESULTS).exists()

    plan, read = counted(plan_of(data, served))
    told: list[tuple[int, int]] = []
    described = run(plan, out, lambda *progress: told.append(progress))
    assert len(read) == PHOTOS - 2 * done
    assert told[0] == (2 * done, PHOTOS)
    assert told[-1] == (PHOTOS, PHOTOS)
    assert described["counts"]["resumed"] == 2 * done
    assert pq.read_table(out / RESULTS).equals(pq.read_table(whole / RESULTS))
    # Once finished, the same command computes nothing.
    read.clear()
    assert run(plan, out)["counts"] == described["counts"]
    assert not read


def counted(plan: Plan) -> tuple[Plan, list[int]]:
    """The same plan, and the photos that it has read."""
    read: list[int] = []

    def reader(index: int) -> bytes:
        read.append(index)
        return plan.data.read(index)

    stage = plan.stage
    watched = DataSet(plan.data.source, plan.data.layout, plan.data.entries, reader)
    return replace(plan, stage=type(stage)(watched, stage.wnids, stage.conditions, stage.seed)), read


def test_the_manifests_detector_is_the_fixtures(manifest: Path, cache_dir: Path, served: Served) -> None:
    loaded = load_from(manifest, cache_dir)
    assert loaded.detector(None).model.sha256 == served.detector(None).model.sha256


def test_another_run_is_never_mixed_in(whole: Path, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(OtherRun, match=r"other arms, photos_a_part\)|other arms\)"):
        run(replace(plan, arms=("plain", "cropped")), whole)
    with pytest.raises(OtherRun, match="other limit"):
        run(replace(plan, limit=3), whole)
    (tmp_path / RUN).write_text("{}")
    with pytest.raises(OtherRun, match=r"not written by figureground evaluate"):
        run(plan, tmp_path)


def test_clear_takes_away_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    Parts(tmp_path).write(0, [], Photos())
    for name in (RUN, RESULTS, "mine.txt"):
        (tmp_path / name).write_text("x")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_broken_photos_are_listed_and_cost_no_other_its_answer(served: Served, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "data")
    junk = folder / WNIDS["china"] / "junk.jpg"
    junk.write_bytes(b"junk")
    (folder / WNIDS["china"] / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    described = run(plan_of(folder, served), tmp_path / "out")
    assert described["counts"]["photos"] == len(WNIDS)
    broken = {photo["path"]: photo["error"] for photo in described["broken"]}
    assert broken[f"{WNIDS['china']}/junk.jpg"].startswith("UnreadablePhoto: ")
    assert "No such file" in broken[f"{WNIDS['china']}/gone.jpg"]


def test_a_sample_is_drawn_by_the_seed(plan: Plan) -> None:
    few = replace(plan, limit=5)
    other = replace(few, stage=type(few.stage)(plan.data, plan.stage.wnids, plan.stage.conditions, 1))
    assert few.chosen == replace(plan, limit=5).chosen == sorted(few.chosen)
    assert len(few.chosen) == 5
    assert few.chosen != other.chosen
    assert replace(plan, limit=10_000).chosen == list(range(PHOTOS))


def test_several_devices_and_batches_answer_alike(plan: Plan, whole: Path, tmp_path: Path) -> None:
    run(replace(plan, served=plan.served * 2, batch=3, threads=2), tmp_path)
    one, other = (_true(out) for out in (whole, tmp_path))
    assert one.keys() == other.keys()
    assert max(abs(one[key] - other[key]) for key in one) < 1e-4


def _true(out: Path) -> dict[tuple[str, str, str], float]:
    rows = pq.read_table(out / RESULTS).to_pylist()
    return {(row["path"], row["label_space"], row["arm"]): row["probability_true"] for row in rows}
