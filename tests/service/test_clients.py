"""The examples of docs/clients, run as they stand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.service.conftest import Server

CLIENTS = Path(__file__).parents[2] / "docs" / "clients"
RUNNERS = {".sh": "sh", ".py": sys.executable, ".mjs": "node"}


def run(client: Path, url: str, photo: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "URL": url, "PHOTO": str(photo)}
    command = [RUNNERS[client.suffix], str(client)]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", sorted(path.name for path in CLIENTS.iterdir()))
def test_the_example_works(server: Server, photo: Path, tmp_path: Path, name: str) -> None:
    client = CLIENTS / name
    runner = RUNNERS[client.suffix]
    if shutil.which(runner) is None:
        pytest.skip(f"{runner} is not installed; it runs docs/clients/{name}")
    done = run(client, server.url, photo, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plain" in done.stdout
    if name == "predict.sh":
        assert len(json.loads(done.stdout)["plain"]["top_k"]) == 1
        assert Image.open(tmp_path / "answer.png").format == "PNG"


@pytest.mark.parametrize("name", ["predict.sh", "predict.py", "predict.mjs"])
def test_the_example_says_what_went_wrong(server: Server, tmp_path: Path, name: str) -> None:
    client = CLIENTS / name
    if shutil.which(RUNNERS[client.suffix]) is None:
        pytest.skip(f"{RUNNERS[client.suffix]} is not installed; it runs docs/clients/{name}")
    junk = tmp_path / "junk.jpg"
    junk.write_bytes(b"junk")
    done = run(client, server.url, junk, tmp_path)
    assert done.returncode != 0
    assert "cannot be read as an image" in done.stdout + done.stderr
