"""`make demo`, as it is run: its own server with the bundled models, the sample photos, tables and pictures."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from service.demo import photos

_ROOT = Path(__file__).parents[2]


def test_the_demo_prints_and_draws_every_photo(cache_dir: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FIGUREGROUND_")}
    environment |= {"FIGUREGROUND_CACHE_DIR": str(cache_dir), "PYTHONPATH": str(_ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "service.demo"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.count("│") > 6}
    names = [photo.name for photo in photos()]
    assert list(rows) == names
    for name, known in (("coffee", "espresso"), ("flower", "daisy"), ("rocket", "missile")):
        assert known in rows[name].split("│")[3], rows[name]
    # In clutter the whole photo's answer is none of the object's; where the crop finds it again is not for a test
    # to promise of every photo, but it does so for most.
    assert "espresso" not in rows["coffee-hard"].split("│")[3]
    found_again = [name for name in names if name.endswith("-hard") and _same_crop(rows, name)]
    assert len(found_again) >= 4, found_again
    for name in [*names, "index"]:
        with Image.open(tmp_path / "demo" / f"{name}.png") as picture:
            assert min(picture.size) >= 400


def _same_crop(rows: dict[str, str], hard: str) -> bool:
    """Whether the hard photo's crop has the first label of the original's plain or cropped prediction."""
    original = rows[hard.removesuffix("-hard")].split("│")
    label = rows[hard].split("│")[4].strip().rsplit(" ", 1)[0]
    return any(label == cell.strip().rsplit(" ", 1)[0] for cell in original[3:5])
