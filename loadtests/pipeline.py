"""Photos a second: our pipeline against the same models put together as the libraries' docs show them.

python -m loadtests.pipeline

Both take the bytes of JPEG photos and answer with a box, a plain, a cropped and a fused prediction, with the same
weights and the same number of classifier forwards for every photo (where our pipeline looks at three crops, so does
the other). Nothing is kept between photos.

- ours: `models.pipeline`, ONNX Runtime, one process, as many photos at once as there are cores;
- naive, one process: PIL, timm's `create_transform`, the same torch modules in eager mode, `torchvision.ops.nms`, a
  crop by PIL and a forward a crop, one photo after the other, torch with as many threads as there are cores;
- naive, processes: the same, one process a core with one torch thread each.

The contenders take turns within a run, so that whatever else the machine does hits all of them alike; the ratio is
ours over the faster of the naive ones, of medians over the turns. Beside it stands the processor time of one photo, of
ours and of the naive way with one thread each: what a busy machine hardly changes.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.samples import SAMPLES
from loadtests.naive import Naive
from models.catalog import DEFAULT_BACKBONES, DEFAULT_DETECTORS, Catalog
from models.comparison import Options
from models.engines import Array, Engine
from models.photo import read_photo
from models.pipeline import Pipeline
from models.served import Loading, Served, load

_RESULT = Path(__file__).parent / "results" / "pipeline.json"
_SIZES: Mapping[str, tuple[int, int] | None] = {"500x375": (500, 375), "full size": None}
# A quiet machine's turns differ by less than this factor.
_STEADY = 1.3
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Job:
    """A photo's bytes, and how many of its boxes' crops are classified."""

    data: bytes
    crops: int


# Answers with the plain label's index, to see that the contenders do the same.
Run = Callable[[Sequence[Job]], list[int]]


class Counting:
    """An engine that counts the photos it is given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.device, self.photos = engine, engine.name, engine.device, 0

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        self.photos += len(inputs[0])
        return self.engine.run(*inputs)


def sample_photos(size: tuple[int, int] | None) -> list[bytes]:
    """The sample photos as JPEG, at this (width, height), or at their own for None."""
    encoded = []
    for sample in SAMPLES.values():
        image = read_photo(sample.path.read_bytes()).image
        buffer = BytesIO()
        (image.resize(size) if size else image).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def jobs_for(served: Served, photos: Sequence[bytes]) -> list[Job]:
    """With the number of crops that our pipeline looks at."""
    name, classifier = next(iter(served.backbones.items()))
    counting = Counting(classifier.engine)
    pipeline = Pipeline(replace(served, backbones={name: replace(classifier, engine=counting)}))
    jobs = []
    for data in photos:
        before = counting.photos
        pipeline.compare(read_photo(data), Options())
        jobs.append(Job(data, counting.photos - before - 1))
    return jobs


def stages(served: Served, jobs: Sequence[Job], repeat: int) -> dict[str, float]:
    """Milliseconds a photo in each stage of ours, one photo after the other, medians over the photos and turns."""
    pipeline, options = Pipeline(served), Options()
    spent: dict[str, list[float]] = {"decode": [], "detect": [], "crop": [], "classify": [], "total": []}
    for job in list(jobs) * repeat:
        start = time.perf_counter()
        photo = read_photo(job.data)
        spent["decode"].append(time.perf_counter() - start)
        comparison = pipeline.compare(photo, options)
        spent["total"].append(time.perf_counter() - start)
        for stage, seconds in comparison.stages.items():
            spent[stage].append(seconds)
    return {stage: 1000 * statistics.median(seconds) for stage, seconds in spent.items()}


def processor_time(served: Served, naive: Naive, jobs: Sequence[Job], repeat: int) -> dict[str, float]:
    """Milliseconds of processor time a photo, one after the other in one thread, mean over photos and turns."""
    pipeline = Pipeline(served)
    spent = {"ours": 0.0, "naive": 0.0}
    torch.set_num_threads(1)
    for job in list(jobs) * repeat:
        start = time.thread_time()
        pipeline.compare(read_photo(job.data), Options())
        between = time.thread_time()
        naive.answer(job.data)
        spent["ours"] += between - start
        spent["naive"] += time.thread_time() - between
    torch.set_num_threads(_CORES)
    return {name: 1000 * seconds / (len(jobs) * repeat) for name, seconds in spent.items()}


@contextmanager
def contenders(served: Served, alone: Naive, backbone: str, detector: str) -> Iterator[dict[str, Run]]:
    pipeline = Pipeline(served)
    torch.set_num_threads(_CORES)

    def ours(job: Job) -> int:
        return pipeline.compare(read_photo(job.data), Options()).plain.first

    with (
        ThreadPoolExecutor(_CORES) as threads,
        ProcessPoolExecutor(_CORES, get_context("spawn"), _start, (backbone, detector)) as processes,
    ):
        yield {
            "ours": lambda jobs: list(threads.map(ours, jobs)),
            "naive, one process": lambda jobs: [first(alone.answer(job.data)) for job in jobs],
            "naive, processes": lambda jobs: list(processes.map(_naive, jobs)),
        }


_of_this_process: list[Naive] = []


def _start(backbone: str, detector: str) -> None:
    torch.set_num_threads(1)
    _of_this_process.append(Naive(backbone, detector))


def _naive(job: Job) -> int:
    return first(_of_this_process[0].answer(job.data))


def first(answer: Mapping[str, Any]) -> int:
    """The plain label's index."""
    return int(answer["plain"]["top_k"][0]["index"])


def race(runs: Mapping[str, Run], jobs: Sequence[Job], repeat: int, title: str) -> dict[str, list[float]]:
    """Photos a second of every contender in every turn."""
    answers = {name: run(jobs) for name, run in runs.items()}
    alike = [len(set(labels)) == 1 for labels in zip(*answers.values(), strict=True)]
    if sum(alike) < 0.9 * len(alike):
        raise SystemExit(f"the contenders' plain predictions agree on {sum(alike)} of {len(alike)} photos only")
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(repeat), f"{title}, {len(jobs)} photos a turn", transient=True):
        for name, run in runs.items():
            start = time.perf_counter()
            run(jobs)
            rates[name].append(len(jobs) / (time.perf_counter() - start))
    return rates


def main(
    photos: Annotated[int, typer.Option(help="Photos a turn: the seven sample photos over and over.", min=1)] = 56,
    repeat: Annotated[int, typer.Option(help="Turns of each contender; the median is told.", min=1)] = 5,
    backbone: Annotated[str, typer.Option(help="The classifier of all contenders.")] = DEFAULT_BACKBONES[0],
    detector: Annotated[str, typer.Option(help="The detector of all contenders.")] = DEFAULT_DETECTORS[0],
    out: Annotated[
        Path, typer.Option(help="Where the numbers go.", show_default="loadtests/results/pipeline.json")
    ] = _RESULT,
) -> None:
    """Photos a second of the pipeline, from bytes to comparison, against the naive one with the same models.

    Naive is what the docs of PIL, timm and torchvision show: eager torch, a transform and a forward for the photo and
    for every crop. It runs once in one process with all cores, and once in a process a core. All contenders do
    the same work on the same photos in turns; the last line is the ratio to the faster naive one. Let the machine do
    nothing else meanwhile, and take the processor time where that cannot be had.
    """
    from service.settings import Settings

    served = load(Catalog(), [backbone], [detector], Loading(Settings().cache_dir, device="cpu"))
    sets: dict[str, Any] = {}
    naive = Naive(backbone, detector)
    with contenders(served, naive, backbone, detector) as runs:
        for title, size in _SIZES.items():
            distinct = jobs_for(served, sample_photos(size))
            jobs = [distinct[index % len(distinct)] for index in range(photos)]
            rates = race(runs, jobs, repeat, title)
            medians = {name: statistics.median(found) for name, found in rates.items()}
            best_naive = max(rate for name, rate in medians.items() if name != "ours")
            sets[title] = {
                "photos_per_second": medians,
                "turns": rates,
                "ratio": medians["ours"] / best_naive,
                "spread": max(max(turns) / min(turns) for turns in rates.values()),
                "processor_ms": processor_time(served, naive, distinct, repeat),
                "stages_ms": stages(served, distinct, repeat),
                "classifier_forwards": statistics.mean(1 + job.crops for job in jobs),
            }
    ratio = statistics.geometric_mean(found["ratio"] for found in sets.values())
    _write(out, sets, ratio, {"photos": photos, "repeat": repeat, "backbone": backbone, "detector": detector})
    _print(sets, ratio)


def _write(out: Path, sets: dict[str, Any], ratio: float, asked: dict[str, Any]) -> None:
    machine = {
        "cores": _CORES,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "onnxruntime": version("onnxruntime"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"ratio": ratio, "sets": sets, "asked": asked, "machine": machine}, indent=1))


def _print(sets: Mapping[str, Any], ratio: float) -> None:
    console = Console()
    speeds = Table("photos", *next(iter(sets.values()))["photos_per_second"], "ratio", "forwards a photo")
    processor = Table("milliseconds of processor time a photo, one thread", "ours", "naive", "ratio")
    spent = Table("milliseconds of ours, one thread", *next(iter(sets.values()))["stages_ms"])
    for title, found in sets.items():
        rates = (f"{rate:.1f}/s" for rate in found["photos_per_second"].values())
        speeds.add_row(title, *rates, f"{found['ratio']:.2f}", f"{found['classifier_forwards']:.1f}")
        cost = found["processor_ms"]
        times = f"{cost['ours']:.1f}", f"{cost['naive']:.1f}", f"{cost['naive'] / cost['ours']:.2f}"
        processor.add_row(title, *times)
        spent.add_row(title, *(f"{milliseconds:.1f}" for milliseconds in found["stages_ms"].values()))
    for table in (speeds, processor, spent):
        console.print(table)
    spread = max(found["spread"] for found in sets.values())
    if spread > _STEADY:
        console.print(
            f"The turns of one contender differ by a factor of {spread:.1f}: the machine is busy, only the processor "
            "time is worth telling."
        )
    each = ", ".join(f"{title} {found['ratio']:.2f}" for title, found in sets.items())
    console.print(f"ratio ours / faster naive: {ratio:.2f} ({each})")


if __name__ == "__main__":
    typer.run(main)
