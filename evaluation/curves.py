"""A stress set's accuracy over the object's size, as a picture.

figureground evaluate FOLDER --out RUN --stress zoom-out
python -m evaluation.curves RUN clutter.png
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation.plots import Curve, accuracy_over_scale
from evaluation.summary import SUMMARY

_ARMS = ("plain", "cropped", "combined", "rectangle")


def curves(runs: list[dict[str, Any]], background: str, edge: str) -> dict[str, Curve]:
    """Of the first model; the photos as they are stand at scale 1."""
    first = next((run for run in runs if run["headline"]), None)
    if first is None:
        return {}
    same = [run for run in runs if all(run[key] == first[key] for key in ("backbone", "detector", "label_space"))]
    shown = [first, *(run for run in same if (run["background"], run["edge"]) == (background, edge))]
    return {
        arm: [
            (run["scale"], one["accuracy"], one["low"], one["high"])
            for run in shown
            if (one := run["arms"].get(arm)) is not None and one["accuracy"] is not None
        ]
        for arm in _ARMS
    }


def main(
    run: Annotated[Path, typer.Argument(help="The --out of an evaluation with --stress zoom-out.")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    background: Annotated[str, typer.Option(help="tiles, colour or photo")] = "tiles",
    edge: Annotated[str, typer.Option(help="hard or feathered")] = "hard",
) -> None:
    """Draw how accuracy falls as the photo shrinks on its canvas, with 95 % intervals."""
    runs = json.loads((run / SUMMARY).read_text("utf-8"))["runs"]
    found = curves(runs, background, edge)
    if len(found.get("plain", [])) < 2:
        raise typer.BadParameter(f"{run} has no photos pasted into {background} with a {edge} edge")
    backbone = next(one["backbone"] for one in runs if one["headline"])
    accuracy_over_scale(found, f"{backbone}, photos pasted into {background}, {edge} edge, 95 % intervals", picture)


if __name__ == "__main__":
    typer.run(main)
