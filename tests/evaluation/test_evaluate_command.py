import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.comparison import Options
from models.photo import read_photo
from models.pipeline import Pipeline
from models.served import Served
from tests.commands import figureground
from tests.conftest import LITE0
from tests.evaluation.photos import WNIDS, class_folders

Evaluate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(
    served: Served, cache_dir: Path, random_head: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    manifest = tmp_path_factory.mktemp("manifest") / "models.toml"
    manifest.write_text(f'[detectors.fcos_random]\narchitecture = "fcos_{LITE0}"\ncheckpoint = "{random_head}"\n')
    assert "fcos_random" in served.detectors  # exported once, for all
    return {**os.environ, "FIGUREGROUND_MODELS": str(manifest), "FIGUREGROUND_CACHE_DIR": str(cache_dir)}


@pytest.fixture(scope="module")
def evaluate(environment: Mapping[str, str]) -> Evaluate:
    return partial(figureground, "evaluate", environment=environment)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = class_folders(tmp_path_factory.mktemp("photos"))
    (folder / WNIDS["china"] / "junk.jpg").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def out(environment: Mapping[str, str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By its URL, as one of an object store would be; by a process of its own, as everybody runs it."""
    out = tmp_path_factory.mktemp("runs") / "out"
    words = [
        "evaluate",
        str(photos),
        "--out",
        f"file://{out}",
        "--detector",
        "fcos_random",
        "--arms",
        "combined,center",
    ]
    command = [sys.executable, "-m", "service.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0].startswith(f"file://{out}: {len(WNIDS)} photos, 1 broken, ")
    assert any("as it is" in line and LITE0 in line and "data set" in line for line in told)
    assert told[-1].startswith(f"On {len(WNIDS)} photos as they are, ")
    assert f"figureground: broken: {WNIDS['china']}/junk.jpg: UnreadablePhoto" in done.stderr
    return out


def test_the_folder_has_all_that_is_promised(out: Path, photos: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"report.html", "results.parquet", "run.json", "summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    assert {run["label_space"] for run in summary["runs"]} == {"imagenet-1k", "data set"}
    for run in summary["runs"]:
        assert (run["backbone"], run["detector"], run["photos"]) == (LITE0, "fcos_random", len(WNIDS))
        assert set(run["arms"]) == {"plain", "cropped", "combined", "center"}
    assert json.loads((out / "run.json").read_text())["data"]["source"] == str(photos)


def test_predictions_are_the_services(out: Path, photos: Path, served: Served) -> None:
    rows = pq.read_table(out / "results.parquet").to_pylist()
    deployed = {(row["path"], row["arm"]): row for row in rows if row["label_space"] == "imagenet-1k"}
    pipeline = Pipeline(served)
    for path in {path for path, _ in deployed}:
        answer = pipeline.compare(read_photo((photos / path).read_bytes()), Options(arms=("center",)))
        for arm, found in (("plain", answer.plain), ("cropped", answer.cropped), ("combined", answer.combined)):
            said = found or answer.plain
            row = deployed[path, arm]
            assert row["index"] == said.first
            assert row["probability"] == pytest.approx(said.confidence, abs=1e-6)
        assert deployed[path, "plain"]["has_crop"] is (answer.cropped is not None)


def test_two_runs_side_by_side(evaluate: Evaluate, out: Path, tmp_path: Path) -> None:
    done = evaluate("compare", out, f"file://{out}", "--out", f"file://{tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "cropped" in done.stdout
    assert json.loads((tmp_path / "compare.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "one DATA and an --out are needed"),
        (("--out", "OUT", "--arms", "plain,zoomed"), 2, "zoomed among the arms; known: plain, cropped"),
        (("--out", "OUT", "--stress", "rain"), 2, "'rain' is none of zoom-out, background"),
        (("--out", "OUT", "--stress", "zoom-out", "--only", "rain"), 2, "no condition is named 'rain'"),
        (("--out", "OUT", "--label-space", "imagenet-a"), 2, "is no class of imagenet-a"),
        (("--out", "OUT", "--stress", "background"), 2, "swapping backgrounds needs hand-drawn boxes"),
        (("--out", "OUT", "--backbone", "nothing.at_all"), 1, "nothing.at_all"),
        (("--out", "DONE"), 2, "holds another run"),
    ],
)
def test_what_is_wrong_is_one_line(
    evaluate: Evaluate, photos: Path, out: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    places: Mapping[str, Path] = {"OUT": tmp_path / "out", "DONE": out}
    done = evaluate(photos, "--detector", "fcos_random", *(places.get(one, one) for one in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_data(evaluate: Evaluate, tmp_path: Path) -> None:
    done = evaluate(tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no such file or folder" in done.stderr
