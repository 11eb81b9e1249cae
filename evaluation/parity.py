"""Does the server answer as timm and torch do? Plain top-1 of labelled photos both ways.

figureground serve &
python -m evaluation.parity FOLDER --url http://127.0.0.1:3000
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timm.data import create_transform, resolve_data_config

from evaluation.cases import LabelledFolder, read_folder
from models.backbones import Backbone
from models.catalog import DEFAULT_BACKBONES, Catalog


@dataclass(frozen=True)
class Answer:
    index: int
    probability: float


@dataclass(frozen=True)
class Parity:
    """Both ways' answers for every photo, in the folder's order."""

    backbone: str
    server: list[Answer]
    timm: list[Answer]


def compare(client: httpx.Client, backbone: Backbone, folder: LabelledFolder) -> Parity:
    model, transform = _as_timm_does(backbone)
    served, reference = [], []
    for path in track(folder.files, description=backbone.name, transient=True):
        served.append(_asked(client, backbone.name, path))
        with Image.open(path) as image, torch.inference_mode():
            probabilities = model(transform(image.convert("RGB"))[None]).softmax(1)[0]
        reference.append(Answer(int(probabilities.argmax()), float(probabilities.max())))
    return Parity(backbone.name, served, reference)


def _as_timm_does(backbone: Backbone) -> tuple[Any, Any]:
    model = backbone.module
    config = resolve_data_config({}, model=model)
    return model, create_transform(**config, is_training=False)


def _asked(client: httpx.Client, backbone: str, path: Path) -> Answer:
    response = client.post(
        "/predict",
        params={"backbone": backbone, "top_k": 1},
        content=path.read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
    )
    response.raise_for_status()
    top = response.json()["plain"]["top_k"][0]
    return Answer(top["index"], top["probability"])


def main(
    folder: Annotated[Path, typer.Argument(help="Photos with a labels.csv (columns file, wnid).")],
    url: Annotated[str, typer.Option(help="A running service.")] = "http://127.0.0.1:3000",
) -> None:
    """Plain top-1 through the server and through timm's own transform and eager torch; where they differ."""
    photos = read_folder(folder)
    console = Console(width=140)
    table = Table("backbone", "photos", "server right", "timm right", "other first label", "largest difference")
    with httpx.Client(base_url=url, timeout=60) as client:
        found = [compare(client, Catalog().backbone(name), photos) for name in DEFAULT_BACKBONES]
    for parity in found:
        pairs = list(zip(photos.files, parity.server, parity.timm, strict=True))
        differing = [(path, ours, theirs) for path, ours, theirs in pairs if ours.index != theirs.index]
        same = [abs(ours.probability - theirs.probability) for _, ours, theirs in pairs if ours.index == theirs.index]
        table.add_row(
            parity.backbone,
            str(len(photos)),
            str(_right(parity.server, photos)),
            str(_right(parity.timm, photos)),
            str(len(differing)),
            f"{max(same, default=0.0):.4f}",
        )
        for path, ours, theirs in differing:
            console.print(f"{parity.backbone} {path.name}: server {ours}, timm {theirs}")
    console.print(table)


def _right(answers: list[Answer], folder: LabelledFolder) -> int:
    return sum(answer.index == label for answer, label in zip(answers, folder.labels, strict=True))


if __name__ == "__main__":
    typer.run(main)
