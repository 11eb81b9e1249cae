"""`figureground evaluate`: does the crop help? Every arm over a data set, with a report."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS

if TYPE_CHECKING:
    from rich.table import Table

    from evaluation.order import Order, Prepared
    from evaluation.run import Plan, Workers
    from evaluation.stress import Stage, Stress
    from models.served import Served
    from service.settings import Settings

_SECONDS_BETWEEN_LINES = 15
_EXTRA = ("fsspec", "jinja2", "matplotlib", "pyarrow", "scipy", "statsmodels")


Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA | compare A B",
        help="A folder of <wnid>/<photo>, or with a labels.csv; Tiny ImageNet; a CSV or Parquet of paths or photos, "
        "and labels; WebDataset tars; ImageNet's LOC_val_solution.csv. A path, an fsspec URL, or a pattern of files. "
        "Or: compare, and the folders of two runs.",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        help="Folder of the report and the results, or of compare.json: a path, or an fsspec URL such as "
        "s3://bucket/run.",
        show_default=False,
    ),
]
Backbones = Annotated[list[str], typer.Option(help="A classifier; may be repeated.")]
Detectors = Annotated[list[str], typer.Option(help="A detector; may be repeated.")]
Stresses = Annotated[
    list[str] | None,
    typer.Option(
        help="zoom-out: also every photo pasted small into others; background: also the objects on other photos' "
        "backgrounds, by their hand-drawn boxes. May be repeated."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Of the stress sets only the conditions named so, as in 'tiles * hard'. May be repeated."),
]
Arms = Annotated[
    str | None, typer.Option(help="Comma list of arms; default: all but oracle_zoom, which takes 30 forwards.")
]
Space = Annotated[
    str | None,
    typer.Option(
        help="Whose classes the labels are: imagenet-1k, imagenet-a, tiny-imagenet. Default: the backbone's own."
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        help="Also let the answers choose among these classes alone: a label space, or none. Default: the "
        "--label-space, else the classes that the data set has."
    ),
]
Boxes = Annotated[str | None, typer.Option(help="Hand-drawn boxes: a LOC_*_solution.csv, or a folder of VOC XML.")]
Paired = Annotated[
    str | None,
    typer.Option(help="Also the photos of the same paths in another data set, as ImageNet-A-Plus beside ImageNet-A."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Evaluate a sample of so many photos.")]
Seed = Annotated[int, typer.Option(min=0, help="Canvases, random boxes and the sample follow from it.")]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Photos a forward; default: 1 on a CPU, 32 on a GPU.", show_default=False)
]
Where = Annotated[
    Literal["local", "ray"], typer.Option(help="ray: on Ray Data, with one actor a core or GPU of the cluster.")
]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; default: one that is started on this machine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away what OUT holds, and start anew.")]


def evaluate(
    data: Data,
    out: Out = None,
    backbone: Backbones = list(DEFAULT_BACKBONES[:1]),  # noqa: B006
    detector: Detectors = list(DEFAULT_DETECTORS[:1]),  # noqa: B006
    stress: Stresses = None,
    only: Only = None,
    arms: Arms = None,
    label_space: Space = None,
    mask: Mask = None,
    boxes: Boxes = None,
    paired: Paired = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch: Batch = None,
    engine: Where = "local",
    ray_address: Address = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure every arm on labelled photos: does the crop help, and is it the detector's doing?

    OUT gets report.html, summary.json, results.parquet (a row a photo, condition, model and arm) and run.json (all that
    is needed to repeat it). The same command again takes up a run that was stopped. Photos that cannot be read are
    listed and counted. Models come from FIGUREGROUND_MODELS, the bundled ones, or timm's hub.

    Examples:

      figureground evaluate imagenet-a --out runs/imagenet-a

      figureground evaluate photos --out runs/stress --stress zoom-out --backbone tf_efficientnet_lite0.in1k --backbone
      tf_efficientnet_lite2.in1k

      figureground evaluate imagenet/LOC_val_solution.csv --limit 5000 --out runs/imagenet

      figureground evaluate "s3://bucket/val-{000..015}.tar" --label-space imagenet-1k --out s3://bucket/runs/val

      figureground evaluate compare runs/imagenet-a runs/stress
    """
    _check_installed()
    if data[0] == "compare" and len(data) == 3:
        _compare(data[1], data[2], out)
        return
    if len(data) > 1 or out is None:
        raise typer.BadParameter("one DATA and an --out are needed, or: compare A B")
    from evaluation.order import Order

    order = Order(
        data=data[0],
        arms=_chosen_arms(arms),
        stresses=_stresses(stress or []),
        only=tuple(only or ("*",)),
        boxes=boxes,
        paired=paired,
        label_space=label_space,
        mask=mask,
        limit=limit,
        seed=seed,
        batch=batch,
    )
    settings = _settings(backbone, detector)
    workers = _workers(engine, ray_address, order, settings)
    with _one_line_errors():
        plan = _plan(_prepared(order, settings), settings)
        _run(plan, out, overwrite, workers)


def _check_installed() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        typer.echo(f"figureground: {missing[0]} is missing; pip install 'figureground[evaluate]' brings it", err=True)
        raise typer.Exit(1)


def _chosen_arms(text: str | None) -> tuple[str, ...]:
    from evaluation.judge import ARMS, DEFAULT_ARMS

    if text is None:
        return DEFAULT_ARMS
    named = [arm.strip() for arm in text.split(",") if arm.strip()]
    unknown = [arm for arm in named if arm not in ARMS]
    if unknown or not named:
        raise typer.BadParameter(f"{', '.join(unknown) or 'nothing'} among the arms; known: {', '.join(ARMS)}")
    # Without these two there is nothing to compare.
    return tuple(arm for arm in ARMS if arm in {*named, "plain", "cropped"})


def _stresses(named: list[str]) -> "tuple[Stress, ...]":
    from evaluation.stress import Stress

    known: tuple[Stress, ...] = get_args(Stress)
    for name in named:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--stress")
    return tuple(stress for stress in known if stress in named)


def _settings(backbones: list[str], detectors: list[str]) -> "Settings":
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(backbones=tuple(backbones), detectors=tuple(detectors))
    except ValidationError as error:
        fault = error.errors()[0]
        where = "_".join(map(str, fault["loc"])).upper()
        raise typer.BadParameter(f"FIGUREGROUND_{where}: {fault['msg']}") from error


def _prepared(order: "Order", settings: "Settings") -> "Prepared":
    from service import loading

    catalog = loading.catalog(settings)
    spaces = [catalog.backbone(name).label_space for name in settings.backbones]
    with _bar("listing photos", None):
        return order.prepare(spaces)


def _loaded(settings: "Settings") -> "tuple[Served, ...]":
    """The models once a device: on all GPUs where the settings leave the choice and there are several."""
    from service import loading

    devices = [settings.device]
    if settings.device == "auto" and settings.engine != "onnxruntime":
        import torch

        if torch.cuda.device_count() > 1:
            devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    total = len(devices) * (len(settings.backbones) + len(settings.detectors))
    names = iter(range(total))
    with _bar("loading models", total) as advance:
        return tuple(
            loading.load(settings.model_copy(update={"device": device}), lambda _: advance(next(names), total))
            for device in devices
        )


def _plan(prepared: "Prepared", settings: "Settings") -> "Plan":
    served = _loaded(settings)
    return prepared.plan(served, max(settings.worker_threads, len(served)))


def _workers(engine: str, address: str | None, order: "Order", settings: "Settings") -> "Workers":
    if engine == "local":
        from evaluation.run import in_threads

        return in_threads
    if find_spec("ray") is None:
        raise typer.BadParameter("--engine ray needs Ray: pip install 'figureground[ray]'")
    from evaluation.on_ray import RayWorkers

    return RayWorkers(order, settings, address)


def _run(plan: "Plan", out: str, overwrite: bool, workers: "Workers") -> None:
    from evaluation.outputs import Output
    from evaluation.run import clear, run

    with Output.at(out) as output:
        if overwrite:
            clear(output.folder)
        with _bar("evaluating", len(plan.chosen)) as advance:

            def told(done: int, everything: int) -> None:
                output.keep()
                advance(done, everything)

            described = run(plan, output.folder, told, workers)
        _tell(described, out)
        _report(plan.stage, output.folder)


def _tell(described: dict[str, Any], out: str) -> None:
    counts, broken = described["counts"], described["broken"]
    for photo in broken:
        print(f"figureground: broken: {photo['path']}: {photo['error']}", file=sys.stderr)
    rate = described["photos_per_second"]
    speed = "" if rate is None else f", {rate:.1f} photos/s"
    typer.echo(f"{out}: {counts['photos']} photos, {counts['broken']} broken, {counts['rows']} rows{speed}")


def _report(stage: "Stage", folder: Path) -> None:
    from evaluation import report, summary, table

    with _bar("writing the report", None):
        figures = summary.write(folder)
        report.write(folder, stage.photo)
    _print(table.table(figures["runs"]))
    typer.echo(figures["verdict"])


def _compare(first: str, second: str, out: str | None) -> None:
    from evaluation import compare
    from evaluation.outputs import Output
    from evaluation.results import UnreadableResults

    try:
        with Output.at(first) as one, Output.at(second) as other:
            rows = compare.compare(one.folder, other.folder)
    except (compare.NothingToCompare, UnreadableResults, OSError) as error:
        typer.echo(f"figureground: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from error
    if out is not None:
        with Output.at(out) as output:
            output.folder.mkdir(parents=True, exist_ok=True)
            compare.write(rows, output.folder / "compare.json")
    _print(compare.table(rows))


def _print(table: "Table") -> None:
    """Into a pipe or a file goes one line a row, however long it is."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 1000).print(table)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from evaluation.data import DataError
    from evaluation.run import OtherRun
    from models.backbones import ModelError
    from models.engines import EngineError

    try:
        yield
    except (DataError, OtherRun) as error:
        raise typer.BadParameter(str(error)) from error
    except (ModelError, EngineError, OSError) as error:
        typer.echo(f"figureground: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _bar(does: str, total: int | None) -> "Iterator[Callable[[int, int], None]]":
    """A bar on standard error with rate and remaining time; where that is no terminal, a line now and then.

    What it yields is told how many are done, of how many.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(does, total=total, rate="")
        start, first, told = time.monotonic(), -1, time.monotonic()

        def advance(done: int, everything: int) -> None:
            nonlocal first, told
            now = time.monotonic()
            first = done if first < 0 else first
            rate = (done - first) / max(now - start, 1e-9)
            progress.update(task, completed=done, total=everything, rate=f"{rate:.1f}/s" if done > first else "")
            if not console.is_terminal and now - told > _SECONDS_BETWEEN_LINES and rate > 0:
                told = now
                left = (everything - done) / rate
                print(f"{does}: {done} of {everything}, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True)

        yield advance
