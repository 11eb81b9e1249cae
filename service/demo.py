"""`make demo`: serve the bundled models, post the sample photos, print and draw what comes back.

The photos come with scikit-image (public domain or CC0) and scikit-learn (CC BY). Each is posted as it is, and once
more as a hard photo: pasted at about a third of the side of a canvas of another photo's shuffled tiles.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from evaluation.clutter import paste
from evaluation.samples import SAMPLES
from models.photo import read_photo
from service.running import NotReady, running_service

_HARD_SCALE = 0.33
_SEED = 1
_THUMBNAIL = (510, 330)

# One line a photo, also where the terminal or the file is narrower.
console = Console(width=max(140, Console().width))


class DemoError(RuntimeError):
    """The demo cannot go on; the message is one line."""


@dataclass(frozen=True)
class Posted:
    """One photo of the demo: a name for its row and picture, the bytes that are posted."""

    name: str
    data: bytes


def photos() -> list[Posted]:
    """The sample photos as they are, each followed by itself in clutter. Raises `DemoError`."""
    try:
        originals = [Posted(name, sample.path.read_bytes()) for name, sample in SAMPLES.items()]
    except ModuleNotFoundError as error:
        raise DemoError(f"{error}: pip install figureground[demo]") from error
    random = np.random.default_rng(_SEED)
    found = []
    for index, posted in enumerate(originals):
        other = originals[(index + 2) % len(originals)]
        found += [posted, _in_clutter(posted, other, random)]
    return found


def main(out: Path = Path("demo")) -> None:
    out.mkdir(exist_ok=True)
    with _server() as url, httpx.Client(base_url=url, timeout=60) as client:
        table = Table("photo", "box", "plain", "cropped", "combined", "agree", "ms")
        pictures = []
        for sample in photos():
            answer = _posted(client, sample, "application/json").json()
            table.add_row(*_row(sample, answer))
            picture = out / f"{sample.name}.png"
            picture.write_bytes(_posted(client, sample, "image/png").content)
            pictures.append(picture)
        console.print(table)
    contact_sheet(pictures).save(out / "index.png")
    console.print(f"Drawn: {out}/<photo>.png, all of them on {out}/index.png")


def contact_sheet(pictures: list[Path], across: int = 2) -> Image.Image:
    """Thumbnails of the drawn answers, row by row."""
    width, height = _THUMBNAIL
    rows = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * width, rows * height), "#ffffff")
    for place, path in enumerate(pictures):
        with Image.open(path) as picture:
            picture.thumbnail((width - 10, height - 10), Image.Resampling.LANCZOS)
            sheet.paste(picture, (place % across * width + 5, place // across * height + 5))
    return sheet


def _in_clutter(sample: Posted, other: Posted, random: np.random.Generator) -> Posted:
    photo, clutter = read_photo(sample.data), read_photo(other.data)
    canvas = paste(photo.image, clutter.image, _HARD_SCALE, random).image
    buffer = BytesIO()
    canvas.save(buffer, "JPEG", quality=92)
    return Posted(f"{sample.name}-hard", buffer.getvalue())


def _posted(client: httpx.Client, sample: Posted, accept: str) -> httpx.Response:
    files = {"image": (f"{sample.name}.jpg", sample.data)}
    response = client.post("/predict", files=files, headers={"Accept": accept})
    if response.status_code != httpx.codes.OK:
        raise DemoError(f"{sample.name}: the service answered {response.status_code}: {response.text}")
    return response


def _row(sample: Posted, answer: dict[str, Any]) -> list[str]:
    def first(arm: str) -> str:
        if answer[arm] is None:
            return f"- ({answer['no_crop_reason']})"
        top = answer[arm]["top_k"][0]
        return f"{top['label']} {top['probability']:.2f}"

    box = answer["box"]
    corners = "-" if box is None else ",".join(f"{value:.0f}" for value in box["xyxy"])
    agreement = {True: "yes", False: "no", None: "-"}[answer["agreement"]]
    milliseconds = f"{answer['timings_ms']['total']:.0f}"
    return [
        sample.name,
        corners,
        first("plain"),
        first("cropped"),
        first("combined"),
        agreement,
        milliseconds,
    ]


@contextmanager
def _server() -> Iterator[str]:
    # What the demo asks is nothing for the user's own journal.
    with running_service(environment={**os.environ, "FIGUREGROUND_JOURNAL_URL": ""}) as service:
        with console.status("Loading models (the first start exports them for ONNX Runtime: a minute)"):
            service.wait_until_ready()
        yield service.url


if __name__ == "__main__":
    try:
        main()
    except (DemoError, NotReady) as error:
        print(f"figureground: {error}", file=sys.stderr)
        sys.exit(1)
