"""A whole evaluation: every photo of a data set under every condition by every model, resumable after a kill."""

import hashlib
import itertools
import json
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from evaluation.classes import Classes
from evaluation.data import DataSet
from evaluation.judge import Judge, Row
from evaluation.parts import RESULTS, Parts, Photos
from evaluation.stress import Shown, Stage
from models.photo import PhotoError
from models.served import Served

RUN = "run.json"
_MOST_PHOTOS_A_PART = 128
_VERSIONS = ("figureground", "timm", "torch", "torchvision", "onnxruntime", "numpy", "pillow", "pyarrow")

Progress = Callable[[int, int], None]
Part = tuple[int, Sequence[int]]
"""Its number, and the positions of its photos in the data set."""
Answered = tuple[int, int, list[Row], Photos]
"""The number of a part, how many of its photos were judged, their rows, and what is told of them."""
Unit = TypeVar("Unit")
Answer = TypeVar("Answer")


class OtherRun(ValueError):
    """The folder holds the results of another run; the message says in what it differs."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated. `limit` photos are a sample that the stage's seed draws; None is all.

    `served` are the models, once a device. Each of `threads` has `batch` photos in work at a time; more than one pays
    on a GPU. A part is written about every `rows_a_part` rows: the work that a kill may cost, seconds on one core.
    """

    stage: Stage
    classes: Classes
    served: tuple[Served, ...]
    arms: tuple[str, ...]
    limit: int | None = None
    threads: int = 1
    batch: int = 1
    rows_a_part: int = 500

    @property
    def data(self) -> DataSet:
        return self.stage.data

    @property
    def seed(self) -> int:
        return self.stage.seed

    @cached_property
    def chosen(self) -> list[int]:
        """Positions in the data set, in its order."""
        everything = len(self.data)
        if self.limit is None or self.limit >= everything:
            return list(range(everything))
        drawn = np.random.default_rng(self.seed).permutation(everything)[: self.limit]
        return sorted(int(index) for index in drawn)

    @cached_property
    def photos_a_part(self) -> int:
        spaces = 1 if self.classes.mask is None else 2
        one = len(self.stage.conditions) * len(self._models.backbones) * len(self._models.detectors) * spaces
        return min(max(self.rows_a_part // (one * len(self.arms)), 1), _MOST_PHOTOS_A_PART)

    @property
    def parts(self) -> list[list[int]]:
        size = self.photos_a_part
        return [self.chosen[start : start + size] for start in range(0, len(self.chosen), size)]

    @property
    def identity(self) -> dict[str, Any]:
        """All that the results follow from; two runs with the same have the same results."""
        return {
            "data_sha256": self.data.sha256,
            "paired_sha256": None if self.stage.partner is None else self.stage.partner.sha256,
            "backbones": {name: one.model.sha256 for name, one in self._models.backbones.items()},
            "detectors": {name: one.model.sha256 for name, one in self._models.detectors.items()},
            "engine": sorted({one.engine.name for one in self._models.backbones.values()}),
            "mask": None if self.classes.mask is None else self.classes.mask.name,
            "conditions": [condition.name for condition in self.stage.conditions],
            "arms": list(self.arms),
            "seed": self.seed,
            "limit": self.limit,
            "photos_a_part": self.photos_a_part,
            "figureground": _version("figureground"),
        }

    @property
    def _models(self) -> Served:
        return self.served[0]


Workers = Callable[[Plan, Sequence[Part]], Iterator[Answered]]
"""Judges parts; the answers of one part come one after the other, the parts in any order."""


def run(
    plan: Plan,
    out: Path,
    on_progress: Progress = lambda _done, _all: None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Writes `out`/results.parquet and `out`/run.json; takes up a run of the same plan that was stopped.

    Returns what run.json says. `on_progress` is told how many photos are done, of how many. `workers` are
    the threads of this machine by default. Raises `OtherRun`, before any work, where `out` holds a run of another plan.
    """
    earlier = _earlier(plan, out)
    if earlier is not None and earlier["finished"] and (out / RESULTS).exists():
        on_progress(len(plan.chosen), len(plan.chosen))
        return earlier
    out.mkdir(parents=True, exist_ok=True)
    started, parts = time.perf_counter(), Parts(out)
    described = _described(plan)
    _write(out / RUN, described)
    resumed = sum(len(plan.parts[number]) for number in parts.done())
    _work(plan, parts, workers or in_threads, on_progress)
    seconds = time.perf_counter() - started
    photos = Photos()
    for number in sorted(parts.done()):
        photos.add(parts.photos(number))
    rows = parts.merge()
    fresh = len(plan.chosen) - resumed
    described |= {
        "finished": True,
        "counts": {
            "photos": len(plan.chosen) - len(photos.broken),
            "broken": len(photos.broken),
            "resumed": resumed,
            "rows": rows,
        },
        "broken": [{"path": path, "error": error} for path, error in sorted(photos.broken.items())],
        "seconds": round(seconds, 3),
        "photos_per_second": round(fresh / seconds, 3) if fresh else None,
    }
    described["data"]["content_sha256"] = hashlib.sha256(
        "".join(f"{path}\0{digest}\n" for path, digest in sorted(photos.sha256.items())).encode()
    ).hexdigest()
    _write(out / RUN, described)
    parts.remove()
    return described


def clear(out: Path) -> None:
    """Takes away what an earlier run wrote into `out`, and nothing else."""
    Parts(out).remove()
    for name in (RUN, RESULTS):
        (out / name).unlink(missing_ok=True)


def in_threads(plan: Plan, parts: Sequence[Part]) -> Iterator[Answered]:
    """The workers of one machine: `plan.threads` threads, which ONNX Runtime and Pillow let run at once."""
    units = (
        (number, tuple(indices[start : start + plan.batch]))
        for number, indices in parts
        for start in range(0, len(indices), plan.batch)
    )
    judges = itertools.cycle([Judge(served, plan.classes, plan.arms, plan.seed) for served in plan.served])

    def judged(unit: tuple[Judge, tuple[int, tuple[int, ...]]]) -> Answered:
        judge, (number, indices) = unit
        rows, photos = _judge(plan, judge, indices)
        return number, len(indices), rows, photos

    with ThreadPoolExecutor(plan.threads) as pool:
        yield from _in_order(pool, judged, zip(judges, units, strict=False), 4 * plan.threads)


def judge_part(plan: Plan, indices: Sequence[int]) -> tuple[list[Row], Photos]:
    """The photos at these positions, in this thread."""
    return _judge(plan, Judge(plan.served[0], plan.classes, plan.arms, plan.seed), indices)


def _work(plan: Plan, parts: Parts, workers: Workers, on_progress: Progress) -> None:
    done = parts.done()
    left = [(number, indices) for number, indices in enumerate(plan.parts) if number not in done]
    finished = len(plan.chosen) - sum(len(indices) for _, indices in left)
    on_progress(finished, len(plan.chosen))
    if not left:
        return
    for number, group in itertools.groupby(workers(plan, left), lambda answer: answer[0]):
        rows: list[Row] = []
        photos = Photos()
        for _, count, more, told in group:
            rows += more
            photos.add(told)
            finished += count
            on_progress(finished, len(plan.chosen))
        parts.write(number, rows, photos)


def _judge(plan: Plan, judge: Judge, indices: Sequence[int]) -> tuple[list[Row], Photos]:
    """A photo that cannot be read is broken, and costs no other its answer."""
    shown: list[Shown] = []
    photos = Photos()
    for index in indices:
        path = plan.data.entries[index].path
        try:
            data = plan.data.read(index)
            photos.sha256[path] = hashlib.sha256(data).hexdigest()
            shown += plan.stage.show(index, data)
        except (OSError, PhotoError) as error:
            photos.broken[path] = f"{type(error).__name__}: {error}".splitlines()[0]
    rows: list[Row] = []
    for start in range(0, len(shown), plan.batch):
        rows += judge.rows(shown[start : start + plan.batch])
    return rows, photos


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Unit], Answer], units: Iterable[Unit], ahead: int
) -> Iterator[Answer]:
    """Like `pool.map`, with `ahead` units in flight at most; what has not begun is dropped where the caller stops."""
    waiting: deque[Future[Answer]] = deque()
    try:
        for unit in units:
            waiting.append(pool.submit(work, unit))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _earlier(plan: Plan, out: Path) -> dict[str, Any] | None:
    try:
        earlier: dict[str, Any] = json.loads((out / RUN).read_text("utf-8"))
        before: dict[str, Any] = earlier["identity"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OtherRun(f"{out / RUN} was not written by figureground evaluate; choose another --out") from error
    differs = [name for name, value in plan.identity.items() if before.get(name) != value]
    if differs:
        raise OtherRun(f"{out} holds another run (other {', '.join(differs)}); choose another --out, or --overwrite")
    return earlier


def _described(plan: Plan) -> dict[str, Any]:
    models = plan.served[0]
    return {
        "identity": plan.identity,
        "finished": False,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": plan.seed,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _VERSIONS}},
        "machine": f"{platform.system()} {platform.machine()}",
        "data": {
            "source": plan.data.source,
            "paired_with": None if plan.stage.partner is None else plan.stage.partner.source,
            "layout": plan.data.layout,
            "photos": len(plan.data),
            "classes": len(set(plan.classes.wnids)),
            "hand_drawn_boxes": plan.data.has_boxes,
            "sha256": plan.data.sha256,
        },
        "models": {
            "backbones": [
                {
                    "name": name,
                    "sha256": one.model.sha256,
                    "label_space": one.model.label_space.name,
                    "preprocessing": asdict(one.model.preprocessing),
                    "engine": one.engine.name,
                    "device": one.engine.device,
                }
                for name, one in models.backbones.items()
            ],
            "detectors": [
                {"name": name, "sha256": one.model.sha256, "tuning": asdict(one.model.tuning)}
                for name, one in models.detectors.items()
            ],
        },
        "settings": {
            "limit": plan.limit,
            "arms": list(plan.arms),
            "label_spaces": [space.name for space in _spaces(plan)],
            "conditions": [asdict(condition) | {"name": condition.name} for condition in plan.stage.conditions],
            "threads": plan.threads,
            "batch": plan.batch,
        },
    }


def _version(package: str) -> str | None:
    """None where a package runs from its source tree alone."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _spaces(plan: Plan) -> list[Any]:
    judge = Judge(plan.served[0], plan.classes, plan.arms)
    found = {space.name: space for one in plan.served[0].backbones.values() for space in judge.spaces(one)}
    return list(found.values())


def _write(path: Path, described: dict[str, Any]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(described, indent=1, default=str), "utf-8")
    fresh.replace(path)
