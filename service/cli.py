"""The command `figureground`. What is heavy is imported where it is used: `--help` takes no second."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from models.boxes import BoxPolicy

if TYPE_CHECKING:
    from models.comparison import Options
    from models.pipeline import Pipeline
    from service.outcomes import Outcome
    from service.settings import Settings

app = typer.Typer(
    name="figureground",
    help="Classify photos whole and cropped to their main object, and compare the two.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

journal = typer.Typer(help="The answers that were given, and what was learnt of them.", no_args_is_help=True)
app.add_typer(journal, name="journal")

# typer's click goes by a name that depends on typer's version.
_UsageError: Any = typer.BadParameter.__base__

Backbones = Annotated[
    list[str] | None, typer.Option("--backbone", help="A backbone to serve; may be repeated, the first is the default.")
]
Detectors = Annotated[
    list[str] | None, typer.Option("--detector", help="A detector to serve; may be repeated, the first is the default.")
]


def main() -> None:
    _add_train()
    _add_evaluate()
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        _fail(error.format_message(), 2)
    except typer.Abort:
        _fail("stopped", 1)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="FIGUREGROUND_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.", envvar="FIGUREGROUND_PORT")] = 3000,
    workers: Annotated[int | None, typer.Option(min=0, help="Server processes; 0: as many as suit the cores.")] = None,
    backbone: Backbones = None,
    detector: Detectors = None,
) -> None:
    """Start the service, once all models are known to load."""
    from service import loading

    settings = _settings(workers=workers, backbones=backbone, detectors=detector)
    with _one_line_errors():
        loading.check(settings)
        address = _free_address(host, port)
        first = settings.at_first
        if not loading.is_exported(first):
            with _progress("loading", len(first.backbones) + len(first.detectors)) as advance:
                loading.prepare(first, advance)
    root = str(Path(__file__).resolve().parents[1])
    arguments = ["serve", "service.app:Figureground", "--working-dir", root, "--host", address, "--port", str(port)]
    os.environ.update(_environment(settings))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    # BentoML keeps a server's metrics there, and empties them when another one starts with the same home.
    os.environ.setdefault("BENTOML_HOME", str(_writable(settings.cache_dir.resolve()) / "bentoml" / str(port)))
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *arguments])


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photo files.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line and photo.")] = False,
    save: Annotated[Path | None, typer.Option(help="Folder for the photos with box and predictions drawn.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The backbone; default: the first of the settings.")] = None,
    detector: Annotated[str | None, typer.Option(help="The detector; default: the first of the settings.")] = None,
    box_policy: Annotated[BoxPolicy, typer.Option(help="Which of several boxes is the crop.")] = "rescored",
    margin: Annotated[float | None, typer.Option(help="Share of the box's longer side added around it.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Least score of a box.")] = None,
    max_boxes: Annotated[int, typer.Option(help="How many boxes --json lists.")] = 1,
    top_k: Annotated[int, typer.Option(help="How many classes a prediction of --json lists.")] = 5,
    label_space: Annotated[str | None, typer.Option(help="Default: the backbone's own.")] = None,
    arms: Annotated[str, typer.Option(help="Comma list of detector, background, center, squashed.")] = "",
) -> None:
    """Compare photos without a server."""
    options = _options(
        box_policy=box_policy,
        margin=margin,
        min_score=min_score,
        max_boxes=max_boxes,
        top_k=top_k,
        label_space=label_space,
        arms=arms,
    )
    settings = _settings(
        backbones=None if backbone is None else [backbone], detectors=None if detector is None else [detector]
    )
    pipeline = _pipeline(settings)
    with _one_line_errors():
        pipeline.check(options)
    if not _predict_all(photos, lambda data: _outcome(data, options, pipeline, settings), pipeline, json, save):
        raise typer.Exit(1)


@app.command()
def models(
    json: Annotated[bool, typer.Option("--json", help="Print what GET /models answers, as JSON.")] = False,
) -> None:
    """List what can be served: the bundled models and those of the manifest."""
    import orjson

    from service import answers, loading

    settings = _settings()
    with _one_line_errors():
        catalog = loading.catalog(settings)
        described = answers.describe(
            [(catalog.backbone(name), None) for name in catalog.names("backbones")],
            [(catalog.detector(name), None) for name in catalog.names("detectors")],
        )
    if json:
        typer.echo(orjson.dumps(described, option=orjson.OPT_INDENT_2))
        return
    rows = [
        [kind[:-1], model["name"], str(model["input_size"]), f"{model['parameters']:,}", model["source"]]
        for kind in ("backbones", "detectors")
        for model in described[kind]
    ]
    _print_table(["kind", "name", "input (px)", "parameters", "source"], rows)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder for the exports; what is there already is kept.")],
    backbone: Backbones = None,
    detector: Detectors = None,
) -> None:
    """Export models into a folder that serves them without torch, timm, their weights and a network.

    Serve it with FIGUREGROUND_CACHE_DIR=DIR, also where it is read-only; models of a manifest need no manifest there.
    """
    from service import loading

    settings = _settings(backbones=backbone, detectors=detector, cache_dir=out, device="cpu", engine="onnxruntime")
    with _one_line_errors():
        loading.check(settings)
        with _progress("exporting", len(settings.backbones) + len(settings.detectors)) as advance:
            names = loading.export(settings, advance)
    typer.echo(f"{', '.join(names)} in {out}")


@journal.command("export")
def export_journal(
    out: Annotated[Path, typer.Argument(help="The file to write: .parquet or .csv.", show_default=False)],
    since: Annotated[str | None, typer.Option(help="Answers from then on: RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(help="Answers before then.")] = None,
    detector: Annotated[str | None, typer.Option(help="Answers with this detector.")] = None,
) -> None:
    """Write the journal's answers with their true labels, a row each."""
    from service.database import Database, DatabaseAway
    from service.experiment import parse
    from service.export import export
    from service.problems import Problem

    url = _settings().journal_url
    if not url:
        _fail("the journal is off: FIGUREGROUND_JOURNAL_URL is empty", 1)
    given = {"since": since, "until": until, "detector": detector}
    try:
        asked = parse({name: value for name, value in given.items() if value is not None})
        rows = export(Database(url), out, asked)
    except (Problem, ValueError) as error:
        _fail(str(error), 2)
    except DatabaseAway as error:
        _fail(error.reason, 1)
    except OSError as error:
        _fail(_plain(error), 1)
    typer.echo(f"{rows} answers in {out}")


@journal.command("migrate")
def migrate_journal() -> None:
    """Bring the database's schema up to date; a server does it too, at its first answer."""
    from service.database import Database, DatabaseAway

    url = _settings().journal_url
    if not url:
        _fail("the journal is off: FIGUREGROUND_JOURNAL_URL is empty", 1)
    try:
        with Database(url).writing():
            typer.echo("the journal's schema is up to date")
    except DatabaseAway as error:
        _fail(error.reason, 1)


def _add_train() -> None:
    try:
        from training.command import train
    except ImportError:  # An installation without it serves all the same.
        return
    app.command("train")(train)


def _add_evaluate() -> None:
    try:
        from evaluation.command import evaluate
    except ImportError:  # An installation without it serves all the same.
        return
    app.command("evaluate")(evaluate)


def _predict_all(
    photos: list[Path], compare: "Callable[[bytes], Outcome]", pipeline: "Pipeline", json: bool, save: Path | None
) -> bool:
    """Prints, and saves, what was found; a photo that cannot be read is one line on standard error."""
    import orjson

    from models.photo import PhotoError
    from service import answers

    rows, names, whole = [], _picture_names(photos), True
    with _progress("comparing", len(photos)) as advance:
        for path, name in zip(photos, names, strict=True):
            advance(path.name)
            try:
                outcome = compare(path.read_bytes())
                if save is not None:
                    save.mkdir(parents=True, exist_ok=True)
                    (save / name).write_bytes(answers.as_png(outcome))
            except (OSError, PhotoError) as error:
                whole = False
                print(f"figureground: {path}: {_plain(error)}", file=sys.stderr)
                continue
            if json:
                answer = {"photo": str(path), **answers.as_answer(outcome, pipeline.served)}
                typer.echo(orjson.dumps(answer))
            rows.append([str(path), *_row(outcome)])
    if rows and not json:
        _print_table(["photo", "box", "plain", "cropped", "combined", "agreement"], rows)
    return whole


def _outcome(data: bytes, options: "Options", pipeline: "Pipeline", settings: "Settings") -> "Outcome":
    from service.cores import available_cores
    from service.outcomes import outcome_of

    return outcome_of(data, options, pipeline, settings.max_pixels, cores=available_cores())


def _pipeline(settings: "Settings") -> "Pipeline":
    from models.pipeline import Pipeline
    from service import loading

    # One of each is asked for; the others would be loaded in vain.
    chosen = settings.model_copy(update={"backbones": settings.backbones[:1], "detectors": settings.detectors[:1]})
    with _one_line_errors(), _progress("loading", 2) as advance:
        return Pipeline(loading.load(chosen, advance))


def _row(outcome: "Outcome") -> list[str]:
    comparison = outcome.comparison
    box = "none" if comparison.box is None else " ".join(f"{value:.0f}" for value in comparison.box.xyxy)
    told = [
        "none" if arm is None else f"{top.label} {top.probability:.0%}"
        for arm in (comparison.plain, comparison.cropped, comparison.combined)
        for top in (arm or comparison.plain).top(1, comparison.label_space)
    ]
    agreement = {True: "yes", False: "no", None: comparison.no_crop_reason}[comparison.agreement]
    return [box, *told, str(agreement)]


def _picture_names(photos: list[Path]) -> list[str]:
    """`cat.png` for cat.jpg; of photos that share a name the later ones are numbered."""
    names: list[str] = []
    for photo in photos:
        same = sum(photo.stem == earlier.stem for earlier in photos[: len(names)])
        names.append(f"{photo.stem}-{same + 1}.png" if same else f"{photo.stem}.png")
    return names


def _settings(**chosen: Any) -> "Settings":
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        _fail(f"FIGUREGROUND_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}", 2)


def _options(**chosen: Any) -> "Options":
    from pydantic import ValidationError

    from service.options import OptionFields

    try:
        return OptionFields(**chosen).as_options()
    except ValidationError as error:
        fault = error.errors()[0]
        _fail(f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}", 2)


def _environment(settings: "Settings") -> dict[str, str]:
    """What the server's processes, which run in another folder, must find in their environment."""
    chosen = {
        "BACKBONES": ",".join(settings.backbones),
        "DETECTORS": ",".join(settings.detectors),
        "WORKERS": str(settings.worker_processes),
        "CACHE_DIR": str(settings.cache_dir.resolve()),
        "JOURNAL_URL": settings.journal_url,
    }
    if settings.calibration is not None:
        chosen["CALIBRATION"] = str(settings.calibration.resolve())
    if settings.models is not None:
        chosen["MODELS"] = str(settings.models.resolve())
    return {f"FIGUREGROUND_{name}": value for name, value in chosen.items()}


def _writable(folder: Path) -> Path:
    """The folder, or a temporary one where it cannot be written to, as in a container."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / "figureground"


def _free_address(host: str, port: int) -> str:
    """The IP address of `host`, once its port has proved to be free. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return str(address[0])


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from models.backbones import ModelError
    from models.engines import EngineError
    from models.served import UnservedChoice

    try:
        yield
    except UnservedChoice as error:
        _fail(str(error), 2)
    except (ModelError, EngineError, OSError) as error:
        _fail(_plain(error), 1)


@contextmanager
def _progress(does: str, total: int) -> "Iterator[Callable[[str], None]]":
    """A bar on standard error; what it yields is told what comes next."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(does, total=total)

        def advance(name: str) -> None:
            started = progress.tasks[0].description != does
            progress.update(task, description=f"{does} {name}", advance=1 if started else 0)

        yield advance


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    # Into a pipe or a file goes one line a row, however long it is.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def _plain(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).splitlines()[0]


def _fail(message: str, code: int) -> NoReturn:
    print(f"figureground: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
