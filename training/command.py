"""`figureground train`: a detector head for a backbone, from photos with hand-drawn boxes."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[
        str,
        typer.Option(
            help="FORMAT:PATH of photos with boxes. tiny-imagenet: train*.parquet and val*.parquet with the columns "
            "image (bytes), wnid and box_xyxy (both ends inclusive, may be null), or Tiny ImageNet's own folders train "
            "and val. imagenet: LOC_train_solution.csv and LOC_val_solution.csv beside ILSVRC, or without them "
            "ILSVRC/Annotations/CLS-LOC. coco: annotations/instances_train*.json and instances_val*.json beside the "
            "folders of photos. A photo without boxes is unlabelled, and left out."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the head goes, a .safetensors file.")],
    backbone: Annotated[
        str,
        typer.Option(
            help="The timm classifier that carries the head, by its name, or by that of FIGUREGROUND_MODELS' manifest. "
            "It needs strides 8, 16 and 32: most convolutional networks and Swin have them, flat ViTs have not."
        ),
    ] = "tf_efficientnet_lite0.in1k",
    canvases: Annotated[
        int, typer.Option(help="How many training images are made: photos, mosaics, photos in clutter.", min=64)
    ] = 64_000,
    batch_size: Annotated[int, typer.Option(help="Canvases a step, of all processes together.", min=2)] = 32,
    learning_rate: Annotated[float, typer.Option(help="The peak of the one-cycle schedule.")] = 2e-3,
    width: Annotated[int, typer.Option(help="Channels of the head.", min=8)] = 96,
    depth: Annotated[int, typer.Option(help="Convolutions in each of its two towers.", min=1)] = 2,
    fine_tune: Annotated[
        int,
        typer.Option(
            help="How many of the backbone's last stages are trained too; the head's file then holds a copy of them. "
            "Slower, and worth it with a GPU. 0: the backbone stays frozen.",
            min=0,
        ),
    ] = 0,
    patch: Annotated[
        bool,
        typer.Option(
            "--patch",
            help="Train the backbone's normalisations and depthwise convolutions too, in all its stages: of a "
            "mobile network a few hundred thousand numbers, which the head's file then holds.",
        ),
    ] = False,
    backbone_rate: Annotated[
        float, typer.Option(help="The learning rate of what is trained of the backbone, as a share of the head's.")
    ] = 0.05,
    canvas_size: Annotated[
        int,
        typer.Option(
            help="The side in pixels, a multiple of 32, of what the backbone sees: the photo, squashed to "
            "--view-size, is enlarged to it. A larger one finds smaller objects, and costs its square.",
            min=32,
        ),
    ] = 128,
    view_size: Annotated[
        int, typer.Option(help="The side of the square that a photo is squashed to: no sharper than --data.", min=32)
    ] = 64,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Show canvases at 0.75, 1 and 1.25 times their size.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Canvases and initial weights follow from it.")] = 0,
    stop_after: Annotated[
        int | None,
        typer.Option(help="Stop at this step of the schedule and write the averaged head; without it, go on.", min=1),
    ] = None,
    validation_photos: Annotated[int, typer.Option(help="Measured every 250 steps and at the end.", min=1)] = 2_000,
    devices: Annotated[
        str, typer.Option(help="GPUs, or processes on a CPU: a number, or auto for all GPUs or one process.")
    ] = "auto",
    data_workers: Annotated[
        int, typer.Option(help="Processes that make canvases, beside each training process.", min=0)
    ] = 1,
) -> None:
    """Train a class-agnostic box head on a backbone (frozen, about 12 minutes
    on two cores).

    The run's folder, OUT with the suffix .run, holds checkpoints,
    metrics.jsonl, progress.png (the loss, and the boxes' quality) and
    boxes.png (boxes on validation photos). The same command again takes up
    where the last one was stopped, with the very same canvases.

    OUT is one file of about half a megabyte, of one with --patch. Serve it
    with a manifest: a table \\[detectors.NAME] with architecture =
    "fcos_BACKBONE" and checkpoint = "OUT". More: docs/training.md.
    """
    from models.backbones import ModelError
    from models.engines import EngineError
    from models.fcos import UnfitBackbone
    from service import loading
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
        fine_tune=fine_tune,
        multi_scale=multi_scale,
        patch=patch,
        backbone_rate=backbone_rate,
        canvas_size=canvas_size,
        view_size=view_size,
    )
    if out.suffix != ".safetensors":
        raise typer.BadParameter("must end in .safetensors", param_hint="--out")
    if devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise typer.BadParameter("must be auto or a number", param_hint="--devices")
    if canvas_size % 32:
        raise typer.BadParameter("must be a multiple of 32", param_hint="--canvas-size")
    if canvases < batch_size:
        raise typer.BadParameter("must be no more than --canvases", param_hint="--batch-size")
    settings = Settings()
    count: int | str = devices if devices == "auto" else int(devices)
    try:
        chosen = loading.catalog(settings).backbone(backbone)
        found = recipes.train(chosen, recipe, out, settings.cache_dir, stop_after, count, data_workers)
    except (ModelError, EngineError, UnfitBackbone, ValueError, OSError) as error:
        # Of an error in another process the last line is its message, after its traceback.
        typer.echo(f"figureground: {(str(error).strip().splitlines() or [repr(error)])[-1]}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"{out}: CorLoc {found.corloc:.3f}, of the first three boxes {found.corloc_of_three:.3f}, mean IoU "
        f"{found.mean_iou:.3f} on {found.photos} validation photos"
    )
