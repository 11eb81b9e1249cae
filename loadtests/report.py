"""The benchmark's loads as cells, tables, verdicts and a picture."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from loadtests.contenders import BARE, CORES, OURS, RAW


@dataclass(frozen=True)
class Cell:
    """One contender under one load, over all turns: `rate` the median turn's, the percentiles (ms) of all together."""

    contender: str
    size: str
    clients: int | None
    share: float | None
    asked_rate: float | None
    rates: tuple[float, ...]
    rate: float
    p50: float
    p99: float
    failed: int
    client_share: float


def cells_of(lines: Iterable[dict[str, Any]]) -> list[Cell]:
    """Of the loads as `loadtests.bench` writes them."""
    loads: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        loads.setdefault((line["size"], line["share"], line["clients"], line["contender"]), []).append(line)
    return [_cell(found) for found in loads.values()]


def _cell(loads: Sequence[dict[str, Any]]) -> Cell:
    first = loads[0]
    rates = tuple(len(load["milliseconds"]) / load["seconds"] for load in loads)
    times = [one for load in loads for one in load["milliseconds"]] or [float("nan")]
    p50, p99 = (float(np.percentile(times, percent)) for percent in (50, 99))
    return Cell(
        contender=first["contender"],
        size=first["size"],
        clients=first["clients"],
        share=first["share"],
        asked_rate=first["asked_rate"],
        rates=rates,
        rate=statistics.median(rates),
        p50=p50,
        p99=p99,
        failed=sum(load["failed"] for load in loads),
        client_share=statistics.mean(load["client_share"] for load in loads),
    )


def print_report(cells: Sequence[Cell]) -> None:
    """Tables of the closed and the open loops, then what they come to; ratios are ours over theirs."""
    console = Console(width=140)
    if opened := [cell for cell in cells if cell.share is not None]:
        console.print(_open_table(opened))
    closed = [cell for cell in cells if cell.clients is not None]
    console.print(_closed_table(closed))
    for line in verdicts(closed):
        print(line)


def verdicts(closed: Sequence[Cell]) -> list[str]:
    """What the closed loops of every size come to. Saturation is more clients than cores."""
    told = []
    for size in dict.fromkeys(cell.size for cell in closed):
        cells = [cell for cell in closed if cell.size == size]
        our = _our(cells)
        ours = {cell.clients: cell for cell in cells if cell.contender == our}
        limits = [cell for cell in cells if cell.contender.startswith(BARE)]
        full = [number for number in ours if number and number > CORES]
        if full and limits:
            best, limit = max(ours[number].rate for number in full), max(cell.rate for cell in limits)
            told.append(f"{size}: at saturation {best / limit:.2f} of the bare pipeline ({best:.1f} of {limit:.1f}/s)")
        direct = [cell.p50 for cell in limits if cell.clients == 1]
        if 1 in ours and direct:
            told.append(f"{size}: p50 at one client {ours[1].p50 - min(direct):.1f} ms above the direct call")
        for name in dict.fromkeys(cell.contender for cell in cells):
            if name == our or name.startswith(BARE):
                continue
            theirs = {cell.clients: cell for cell in cells if cell.contender == name}
            both = [number for number in ours if number in theirs and theirs[number].rate]
            rates = ", ".join(f"{ours[n].rate / theirs[n].rate:.2f} at {n}" for n in both)
            tails = ", ".join(f"{ours[n].p99 / theirs[n].p99:.2f} at {n}" for n in both if n in full)
            told.append(f"{size}: {our} / {name}: photos/s {rates}; p99 {tails}")
            paired = ", ".join(f"{_paired(ours[n], theirs[n])} at {n}" for n in both)
            told.append(f"{size}: {our} / {name}: the turns' mean {paired}")
    return told


def _our(cells: Sequence[Cell]) -> str:
    return OURS if any(cell.contender == OURS for cell in cells) else RAW


def _paired(ours: Cell, theirs: Cell) -> str:
    """Geometric mean of the turns' ratios of photos/s with its standard error: a turn's two loads lie side by side."""
    turns = min(len(ours.rates), len(theirs.rates))
    ratios = np.log(ours.rates[:turns]) - np.log(theirs.rates[:turns])
    mean, error = float(np.exp(ratios.mean())), float(ratios.std(ddof=1)) / turns**0.5 if turns > 1 else float("nan")
    return f"{mean:.3f} ± {error:.3f}"


def _closed_table(cells: Sequence[Cell]) -> Table:
    table = Table("photos", "clients", "contender", box=box.SIMPLE_HEAD)
    for title in ("photos/s", "spread", "p50 ms", "p99 ms", "failed", "client's cores", "ours / theirs"):
        table.add_column(title, justify="right")
    our = _our(cells)
    ours = {(cell.size, cell.clients): cell.rate for cell in cells if cell.contender == our}
    order = {name: number for number, name in enumerate(dict.fromkeys(sorted(cell.contender for cell in cells)))}
    for cell in sorted(cells, key=lambda cell: (cell.size, cell.clients or 0, order[cell.contender])):
        spread = max(cell.rates) / max(1e-9, min(cell.rates))
        rate = ours.get((cell.size, cell.clients))
        table.add_row(
            *(cell.size, str(cell.clients), cell.contender, f"{cell.rate:.1f}", f"{spread:.2f}"),
            *(f"{cell.p50:.1f}", f"{cell.p99:.1f}", str(cell.failed), f"{cell.client_share:.2f}"),
            f"{rate / cell.rate:.2f}" if rate and cell.rate else "-",
        )
    return table


def _open_table(cells: Sequence[Cell]) -> Table:
    table = Table("photos", "contender", box=box.SIMPLE_HEAD)
    for title in ("of the limit", "asked/s", "answered/s", "p50 ms", "p99 ms", "failed"):
        table.add_column(title, justify="right")
    for cell in sorted(cells, key=lambda cell: (cell.share or 0, cell.contender)):
        table.add_row(
            *(cell.size, cell.contender, f"{cell.share:.0%}", f"{cell.asked_rate:.1f}", f"{cell.rate:.1f}"),
            *(f"{cell.p50:.0f}", f"{cell.p99:.0f}", str(cell.failed)),
        )
    return table


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Photos a second and p99 over the number of clients, a column a photo size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    closed = [cell for cell in cells if cell.clients is not None]
    if not closed:
        return
    sizes = list(dict.fromkeys(cell.size for cell in closed))
    figure, axes = pyplot.subplots(2, len(sizes), figsize=(4.5 * len(sizes) + 2, 7), squeeze=False, sharex=True)
    for column, size in enumerate(sizes):
        for name in sorted({cell.contender for cell in closed}):
            line = sorted(
                (cell for cell in closed if cell.size == size and cell.contender == name),
                key=lambda cell: cell.clients or 0,
            )
            clients = [cell.clients for cell in line]
            style = {"linewidth": 3, "color": "black"} if name == OURS else {"linestyle": _style(name)}
            axes[0][column].plot(clients, [cell.rate for cell in line], marker=".", label=name, **style)
            axes[1][column].plot(clients, [cell.p99 for cell in line], marker=".", label=name, **style)
        axes[0][column].set_title(size)
        axes[0][column].set_ylim(bottom=0)
        axes[1][column].set_yscale("log")
        axes[1][column].set_xscale("log", base=2)
        axes[1][column].set_xlabel("clients")
    axes[0][0].set_ylabel("photos/s")
    axes[1][0].set_ylabel("p99, ms")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="center right", fontsize="small")
    figure.tight_layout(rect=(0, 0, 1 - 2 / (4.5 * len(sizes) + 2), 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _style(name: str) -> str:
    return ":" if name.startswith(BARE) else "-"
