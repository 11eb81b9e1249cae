"""The benchmark's cells as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from loadtests.contenders import OURS

Cells = Sequence[dict[str, Any]]


def print_report(cells: Cells) -> None:
    """A table of the closed loops and one of the open loop; ratios are ours over theirs."""
    console = Console(width=140)
    closed = [cell for cell in cells if cell["clients"] is not None]
    opened = [cell for cell in cells if cell["clients"] is None]
    if opened:
        console.print(_open_table(opened))
    console.print(_closed_table(closed))


def _closed_table(cells: Cells) -> Table:
    table = Table("photos", "clients", "contender", box=box.SIMPLE_HEAD)
    for title in ("photos/s", "spread", "p50 ms", "p99 ms", "failed", "client's cores", "ours / theirs"):
        table.add_column(title, justify="right")
    for cell in cells:
        ours = _ours(cells, cell)
        spread = max(cell["rates"]) / max(1e-9, min(cell["rates"]))
        table.add_row(
            *(cell["size"], str(cell["clients"]), cell["contender"], f"{cell['rate']:.1f}", f"{spread:.2f}"),
            *(f"{cell['p50']:.1f}", f"{cell['p99']:.1f}", str(cell["failed"]), f"{cell['client_share']:.2f}"),
            f"{ours['rate'] / cell['rate']:.2f}" if ours and cell["rate"] else "-",
        )
    return table


def _open_table(cells: Cells) -> Table:
    table = Table("photos", "contender", box=box.SIMPLE_HEAD)
    for title in ("asked/s", "answered/s", "p50 ms", "p99 ms", "failed"):
        table.add_column(title, justify="right")
    for cell in sorted(cells, key=lambda cell: (cell["asked_rate"], cell["contender"])):
        table.add_row(
            *(cell["size"], cell["contender"], f"{cell['asked_rate']:.1f}", f"{cell['rate']:.1f}"),
            *(f"{cell['p50']:.0f}", f"{cell['p99']:.0f}", str(cell["failed"])),
        )
    return table


def _ours(cells: Cells, cell: dict[str, Any]) -> dict[str, Any] | None:
    same = (cell["size"], cell["clients"])
    return next((one for one in cells if one["contender"] == OURS and (one["size"], one["clients"]) == same), None)


def draw(cells: Cells, path: Path) -> None:
    """Photos a second and p99 over the number of clients, a column a photo size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    closed = [cell for cell in cells if cell["clients"] is not None]
    sizes = list(dict.fromkeys(cell["size"] for cell in closed))
    figure, axes = pyplot.subplots(2, len(sizes), figsize=(4.5 * len(sizes) + 2, 7), squeeze=False, sharex=True)
    for column, size in enumerate(sizes):
        for name in dict.fromkeys(cell["contender"] for cell in closed):
            line = [cell for cell in closed if cell["size"] == size and cell["contender"] == name]
            clients = [cell["clients"] for cell in line]
            style = {"linewidth": 3, "color": "black"} if name == OURS else {"linestyle": _style(name)}
            for row, key in enumerate(("rate", "p99")):
                axes[row][column].plot(clients, [cell[key] for cell in line], marker=".", label=name, **style)
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
    if name.startswith("bare"):
        return ":"
    return "--" if name.endswith("torch") else "-"
