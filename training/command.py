"""`figureground train`: a detector head for a backbone, from photos with hand-drawn boxes."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[
        str,
        typer.Option(
            help="FORMAT:PATH of photos with boxes. tiny-imagenet:FOLDER reads train*.parquet and val*.parquet "
            "with the columns image (bytes), wnid and box_xyxy (both ends inclusive, may be null)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the head goes, a .safetensors file.")],
    backbone: Annotated[
        str, typer.Option(help="The timm classifier that carries the head; it needs strides 8, 16 and 32.")
    ] = "tf_efficientnet_lite0.in1k",
    canvases: Annotated[int, typer.Option(help="How many training images are made.", min=64)] = 64_000,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    learning_rate: Annotated[float, typer.Option(help="The peak of the one-cycle schedule.")] = 2e-3,
    width: Annotated[int, typer.Option(help="Channels of the head.", min=8)] = 96,
    depth: Annotated[int, typer.Option(help="Convolutions in each of its two towers.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Canvases and initial weights follow from it.")] = 0,
    stop_after: Annotated[
        int | None,
        typer.Option(help="Stop at this step of the schedule and write the averaged head; without it, go on.", min=1),
    ] = None,
    validation_photos: Annotated[int, typer.Option(help="Measured every 250 steps and at the end.")] = 2_000,
) -> None:
    """Train a class-agnostic box head on a frozen backbone (about 12 minutes on two cores).

    The run's folder, OUT with the suffix .run, holds checkpoints and metrics.jsonl: the same command again takes
    up where the last one was stopped, with the very same canvases. OUT is one file of about half a megabyte;
    serve it with a manifest ([detectors.NAME] architecture = "fcos_BACKBONE", checkpoint = "OUT").
    """
    from models.backbones import ModelError
    from models.catalog import Catalog
    from models.fcos import UnfitBackbone
    from service.settings import Settings
    from training import recipe as recipes

    recipe = recipes.Recipe(
        data=data,
        canvases=canvases,
        batch_size=batch_size,
        learning_rate=learning_rate,
        width=width,
        depth=depth,
        seed=seed,
        validation_photos=validation_photos,
    )
    if out.suffix != ".safetensors":
        raise typer.BadParameter("must end in .safetensors", param_hint="--out")
    try:
        found = recipes.train(Catalog().backbone(backbone), recipe, out, Settings().cache_dir, stop_after)
    except (ModelError, UnfitBackbone, ValueError) as error:
        typer.echo(f"figureground: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"{out}: CorLoc {found.corloc:.3f}, of the first three boxes {found.corloc_of_three:.3f}, mean IoU "
        f"{found.mean_iou:.3f} on {found.photos} validation photos"
    )
