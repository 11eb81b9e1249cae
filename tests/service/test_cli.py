import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from evaluation.samples import SAMPLES
from models.served import Served
from tests.conftest import LITE0

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(environment: Mapping[str, str], served: Served) -> Run:  # noqa: ARG001
    def run(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
        return subprocess.run(
            command, env={**environment, **settings}, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_predict_prints_a_line_a_photo_and_names_the_broken(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"junk")
    chelsea, rocket = SAMPLES["chelsea"].path, SAMPLES["rocket"].path
    done = run("predict", chelsea, broken, tmp_path / "missing.jpg", rocket, "--save", tmp_path / "out")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if ".png" in line or ".jpg" in line]
    assert [line.split()[0] for line in lines] == [str(chelsea), str(rocket)]
    errors = done.stderr.splitlines()
    assert [str(broken) in errors[0], "No such file" in errors[1], len(errors)] == [True, True, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chelsea.png", "rocket.png"]
    assert Image.open(tmp_path / "out" / "rocket.png").format == "PNG"


def test_predict_json_answers_as_the_service_does(run: Run) -> None:
    done = run("predict", SAMPLES["chelsea"].path, "--json", "--top-k", 2, "--box-policy", "score", "--arms", "center")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer["photo"] == str(SAMPLES["chelsea"].path)
    assert len(answer["plain"]["top_k"]) == 2
    assert list(answer["arms"]) == ["center"]


def test_models_lists_what_can_be_served(run: Run) -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert listed["backbones"][0]["name"] == LITE0
    assert "fcos_random" in [model["name"] for model in listed["detectors"]]
    assert not any(model["loaded"] for model in listed["backbones"] + listed["detectors"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["frob"], 2, "frob"),
        (["serve", "--port", "0"], 2, "--port"),
        (["serve", "--backbone", "nonsense"], 1, "nonsense"),
        (["serve", "--detector", "nonsense"], 1, "fcos_random"),
        (["serve", "--host", "192.0.2.1"], 1, "cannot listen"),
        (["predict"], 2, "photos"),
        (["predict", "x.jpg", "--top-k", "0"], 2, "--top-k"),
        (["predict", "x.jpg", "--box-policy", "biggest"], 2, "largest"),
        (["predict", "x.jpg", "--label-space", "none"], 2, "imagenet-a"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, told: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_wrong_settings_are_named(run: Run) -> None:
    done = run("models", FIGUREGROUND_MAX_BYTES="many")
    assert done.returncode == 2
    assert "FIGUREGROUND_MAX_BYTES" in done.stderr


def test_bentoml_serve_stops_at_a_wrong_name(environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "--port", "0"],
        env={**environment, "FIGUREGROUND_BACKBONES": "nonsense"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "figureground: unknown backbone 'nonsense'" in done.stderr


def test_help_is_quick_to_load(environment: Mapping[str, str]) -> None:
    program = "import sys, service.cli; print({'torch', 'timm', 'bentoml'} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"
