from pathlib import Path

from rich.console import Console

from evaluation import summary
from evaluation.curves import curves
from evaluation.table import table
from tests.evaluation import tables


def written(folder: Path) -> dict[str, object]:
    """Two photos as they are and in clutter."""
    right = {"plain": [True, False, False], "cropped": [False, True, True]}
    rows = tables.rows(right)
    rows += tables.rows({"plain": [True] * 3}, condition="tiles 0.5 hard", scale=0.5, background="tiles", edge="hard")
    rows += tables.rows({"cropped": [True] * 3}, condition="tiles 0.5 hard", scale=0.5, background="tiles", edge="hard")
    return summary.write(tables.write(folder, rows))


def test_a_line_a_condition(tmp_path: Path) -> None:
    runs = written(tmp_path)["runs"]
    assert isinstance(runs, list)
    console = Console(width=240)
    with console.capture() as captured:
        console.print(table(runs))
    bar = "\N{BOX DRAWINGS LIGHT VERTICAL}"
    lines = [[cell.strip() for cell in line.split(bar)[1:-1]] for line in captured.get().splitlines()]
    rows = [line for line in lines if line]
    assert [row[0] for row in rows] == ["as it is", "tiles 0.5 hard"]
    # Wilson's interval of 1 in 3 by hand: 6.1 to 79.2 %; of 2 against 1 discordant pairs p is 1.
    assert rows[0][3:6] == ["33.3 [6, 79]", "66.7 [21, 94]", "2/1 p=1"]
    assert rows[1][3:6] == ["100.0 [44, 100]", "100.0 [44, 100]", "0/0 p=1"]


def test_curves_begin_with_the_photos_as_they_are(tmp_path: Path) -> None:
    runs = written(tmp_path)["runs"]
    assert isinstance(runs, list)
    found = curves(runs, "tiles", "hard")
    assert [(scale, accuracy) for scale, accuracy, _, _ in found["plain"]] == [(1.0, 1 / 3), (0.5, 1.0)]
    assert found["rectangle"] == []
    assert [scale for scale, *_ in curves(runs, "colour", "hard")["plain"]] == [1.0]
