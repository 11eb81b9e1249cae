"""The dashboard of deploy/grafana as a picture: its own queries, asked of a Prometheus that watched a service at work.

python -m loadtests.dashboard
"""

import json
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import matplotlib
import typer
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter

from evaluation.samples import SAMPLES
from loadtests.crowd import crowd
from loadtests.prometheus import RULES, Prometheus, prometheus
from models.catalog import DEFAULT_BACKBONES
from service.running import running_service

DASHBOARD = RULES.parent / "grafana" / "dashboards" / "figureground.json"
_OUT = Path(__file__).parents[1] / "docs" / "dashboard.png"
_COLUMNS = 24
_UNITS: dict[str, Callable[[float], str]] = {
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "s": lambda value: f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s",
    "bytes": lambda value: f"{value / 2**20:.0f} MiB",
    "reqps": lambda value: f"{value:.3g}/s",
    "none": lambda value: f"{value:.3g}",
}
# The photos' own labels where ImageNet has one; somebody who tells them now and then.
_TRUTHS = {"chelsea": "Egyptian cat", "coffee": "espresso", "motorcycle_left": "moped", "china": "palace"}


def _visit(url: str, number: int, stop: threading.Event) -> None:
    """A client with photos of all sorts, some of them broken, who now and then tells what was true."""
    chosen = random.Random(number)
    while not stop.is_set():
        with httpx.Client(base_url=url, timeout=60) as client:
            _ask(client, chosen)
        time.sleep(chosen.random() * 0.3)


def _ask(client: httpx.Client, chosen: random.Random) -> None:
    name = chosen.choice(sorted(SAMPLES))
    photo = b"junk" if chosen.random() < 0.03 else SAMPLES[name].path.read_bytes()
    options = {"backbone": chosen.choice(DEFAULT_BACKBONES[:2])}
    answer = client.post("/predict", files={"image": photo}, params=options)
    if answer.is_success and name in _TRUTHS and chosen.random() < 0.5:
        client.post("/feedback", json={"request_id": answer.json()["request_id"], "label": _TRUTHS[name]})


def draw(running: Prometheus, start: float, end: float, out: Path) -> None:
    """Every panel in its place, from `start` to `end` in seconds since 1970."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.color": "#e4e4e4", "axes.titleweight": "bold", "axes.titlesize": 9})
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(15, rows * 0.36), layout="constrained")
    grid = figure.add_gridspec(rows, _COLUMNS)
    for panel in panels:
        place = panel["gridPos"]
        axes = figure.add_subplot(grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]])
        axes.set_title(panel["title"], loc="left")
        if panel["type"] == "stat":
            _draw_number(axes, running.value(panel["targets"][0]["expr"]), panel["fieldConfig"]["defaults"]["unit"])
        else:
            _draw_course(axes, running, panel, start, end)
    figure.savefig(out, dpi=80)


def _draw_number(axes: Axes, value: float, unit: str) -> None:
    axes.axis("off")
    axes.text(0, 0.4, _UNITS[unit](value), fontsize=20, color="#2b6cb0", va="center")


def _draw_course(axes: Axes, running: Prometheus, panel: dict[str, Any], start: float, end: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    for target in panel["targets"]:
        for series in running.query_range(target["expr"], start, end, max(1.0, (end - start) / 200)):
            times, values = zip(*series["values"], strict=True)
            moments: Any = [datetime.fromtimestamp(moment, UTC) for moment in times]
            label = _legend(target["legendFormat"], series["metric"])
            axes.plot(moments, [float(value) for value in values], linewidth=1.2, label=label)
    for step in defaults.get("thresholds", {}).get("steps", [])[1:]:
        axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=0.8)
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: _UNITS[defaults["unit"]](value))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.legend(fontsize=6, frameon=False, loc="best")


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), form)


def main(
    out: Annotated[Path, typer.Option(help="The picture.")] = _OUT,
    seconds: Annotated[float, typer.Option(help="How long the service is at work.", min=20)] = 300,
    clients: Annotated[int, typer.Option(help="At once.", min=1)] = 3,
) -> None:
    """Two workers, two backbones; a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [word for name in DEFAULT_BACKBONES[:2] for word in ("--backbone", name)]
        environment = {**os.environ, "FIGUREGROUND_WORKERS": "2"}
        environment["FIGUREGROUND_JOURNAL_URL"] = f"sqlite:///{folder}/journal.db"
        with running_service(*chosen, environment=environment, output=Path(folder, "log")) as service:
            service.wait_until_ready()
            with prometheus(service.url.removeprefix("http://")) as running:
                start = time.time()
                with crowd(clients, partial(_visit, service.url)):
                    time.sleep(seconds)
                draw(running, start, time.time(), out)
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    typer.run(main)
