import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation import report, summary
from evaluation.anchors import anchors
from evaluation.compare import NothingToCompare, compare, table
from evaluation.gallery import galleries, reader
from evaluation.plots import accuracy_over_scale
from evaluation.results import read_runs
from models.label_spaces import imagenet_1k
from models.photo import Photo, read_photo
from tests.evaluation import tables

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
_LOADING = {"src", "srcset", "data", "poster", "background", "action", "xlink:href"}
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would load or run, and whether the tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look(tag, attrs)

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loaded += [value or "" for name, value in attrs if name in _LOADING or (name == "href" and tag != "a")]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "li", "tr", "td", "th", "thead", "tbody") and tag not in self.open:
            return
        assert self.open.pop() == tag


def evaluated(folder: Path, photos: int = 60, **fixed: Any) -> Path:
    """As they are and in clutter, by two backbones."""
    names = imagenet_1k().wnids
    wnids = [names[10 * (photo % 12)] for photo in range(photos)]
    rows: list[dict[str, Any]] = []
    for backbone in ("lite0", "lite1"):
        answers = tables.random_answers(photos, {"plain": 0.5, "cropped": 0.7}, len(backbone))
        rows += tables.rows(answers, wnids=wnids, backbone=backbone, **fixed)
        for scale in (0.5, 0.25):
            answers = tables.random_answers(photos, {"plain": scale / 2, "cropped": 0.6})
            stressed: dict[str, Any] = {"scale": scale, "background": "tiles", "edge": "hard"} | fixed
            condition = f"tiles {scale} hard"
            rows += tables.rows(answers, wnids=wnids, backbone=backbone, condition=condition, **stressed)
    for row in rows:
        if row["path"].endswith("7.jpg"):
            row |= {"has_crop": False, "no_crop_reason": "no_detection", "score": None, "area_fraction": None}
            row |= dict.fromkeys(("x1", "y1", "x2", "y2"))
    return tables.write(folder, rows)


def show(path: str, condition: str) -> Photo:  # noqa: ARG001 every photo is the same one
    return read_photo(tables.jpeg())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(evaluated(tmp_path_factory.mktemp("whole")), show)


def test_a_whole_report(whole: Path) -> None:
    assert whole.name == "report.html"
    text = whole.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == 1 + 2 + 2 + 2 + 1  # arms, stress, area and score, reliability, classes
    assert "Rescued: plain wrong, cropped right</h3>" in text
    assert "Rescued: plain wrong, cropped right <small>tiles 0.5 hard</small>" in text
    assert summary.write(whole.parent)["verdict"] in text
    assert "53.95" in text
    assert "tench" in text
    assert not re.search(r"\b(nan|None|Undefined)\b", re.sub(r"(?s)<style>.*?</style>|<pre>.*?</pre>", "", text))


def test_nothing_is_loaded_and_nothing_runs(whole: Path) -> None:
    text = whole.read_text("utf-8")
    page = Page(text)
    assert {"script", "link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)
    assert page.handlers == []
    assert page.loaded
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in page.loaded)
    assert "@import" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    outside = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert outside == {anchor.source.url for anchor in anchors()}, "only the links to the sources"
    assert "default-src 'none'" in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    rows = tables.rows(
        {"plain": [False, True], "cropped": [True, False]},
        wnids=[HOSTILE, "n2"],
        names=[HOSTILE, "b.jpg"],
        backbone="</svg>" + HOSTILE,
        detector="$" + HOSTILE,
        label_space=HOSTILE,
        condition="as it is",
    )
    rows += [row | {"condition": HOSTILE, "scale": 0.5, "background": HOSTILE, "edge": "$\\frac{"} for row in rows]
    tables.write(tmp_path, rows, broken=[{"path": HOSTILE, "error": HOSTILE}], command=["figureground", HOSTILE])
    text = report.write(tmp_path, show).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.handlers == []
    assert page.open == []
    assert "&lt;script&gt;" in text


def test_without_its_photos_the_report_says_so(tmp_path: Path) -> None:
    tables.write(tmp_path, tables.rows({"plain": [True, False], "cropped": [False, True]}))
    text = report.write(tmp_path).read_text("utf-8")
    assert "there are no galleries here" in text
    assert "img" not in Page(text).tags


def test_photos_of_a_folder_are_read_again(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    thumbnail = tables.jpeg()
    run = read_runs(folder)[0]
    for path in run.paths:
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_bytes(thumbnail)
    show = reader(str(tmp_path / "photos"))
    assert show is not None
    found = galleries(run, show, shown=3)
    rescued, broken, missed = found
    assert [len(gallery.pictures) for gallery in found] == [3, min(3, broken.total), 3]
    assert rescued.pictures[0].source.startswith("data:image/jpeg;base64,")
    assert rescued.pictures[0].box is not None
    assert [said.arm for said in rescued.pictures[0].said] == ["plain", "cropped"]
    assert [said.correct for said in rescued.pictures[0].said] == [False, True]
    assert missed.pictures[0].box is None
    assert [said.arm for said in missed.pictures[0].said] == ["plain"]


def test_no_file_outside_the_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(tables.jpeg())
    (tmp_path / "photos" / "n01440764").mkdir(parents=True)
    (tmp_path / "photos" / "n01440764" / "1.jpg").write_bytes(tables.jpeg())
    show = reader(str(tmp_path / "photos"))
    assert show is not None
    with pytest.raises(OSError, match="lists no"):
        show("../secret.jpg", "as it is")
    with pytest.raises(OSError, match="not at hand as tiles"):
        show("n01440764/1.jpg", "tiles 0.5 hard")
    assert reader(str(tmp_path / "nowhere")) is None


def test_a_thousand_photos_stay_under_three_megabytes(tmp_path: Path) -> None:
    assert report.write(evaluated(tmp_path, 1000), show).stat().st_size < 3_000_000


@pytest.mark.parametrize("photos", [0, 1])
def test_hardly_a_photo(tmp_path: Path, photos: int) -> None:
    rows = tables.rows({"plain": [True] * photos, "cropped": [True] * photos}) if photos else []
    text = report.write(tables.write(tmp_path, rows)).read_text("utf-8")
    assert ("nothing can be said" in text) == (photos == 0)
    assert Page(text).open == []


def test_an_old_summary_is_written_anew(tmp_path: Path) -> None:
    folder = tables.write(tmp_path, tables.rows({"plain": [True], "cropped": [False]}))
    (folder / "summary.json").write_text("{}")
    newer = (folder / "results.parquet").stat().st_mtime_ns - 1_000_000_000
    os.utime(folder / "summary.json", ns=(newer, newer))
    assert "verdict" in report.write(folder).read_text("utf-8")


def test_anchors_are_published_numbers_with_sources() -> None:
    found = {anchor.model: anchor for anchor in anchors()}
    assert len(found) == 13
    paper = next(anchor for anchor in anchors() if anchor.imagenet_a == "53.95")
    assert paper.source.url == "https://arxiv.org/abs/2102.11731"
    assert (found["convnext_tiny.fb_in1k"].imagenet_a, found["convnext_tiny.fb_in1k"].imagenet) == ("29.79", "82.69")


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    """Other models over the same photos: paired by path, where the class is the same."""
    for name, backbone, right in (
        ("a", "lite0", [True, False, False, True]),
        ("b", "lite1", [True, True, True, False]),
    ):
        (tmp_path / name).mkdir()
        tables.write(tmp_path / name, tables.rows({"plain": right, "cropped": [True] * 4}, backbone=backbone))
    plain, cropped = compare(tmp_path / "a", tmp_path / "b")
    assert (plain.first.correct, plain.second.correct) == (2, 3)
    assert plain.paired is not None
    assert (plain.paired.photos, plain.paired.rescued, plain.paired.broken) == (4, 2, 1)
    assert cropped.paired is not None
    assert cropped.paired.difference == 0
    assert table([plain, cropped]).row_count == 2


def test_runs_that_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.write(tmp_path / name, tables.rows({"plain": [True], "cropped": [True]}, label_space=name))
    with pytest.raises(NothingToCompare):
        compare(tmp_path / "a", tmp_path / "b")


def test_curves_as_a_file(tmp_path: Path) -> None:
    curve = [(1.0, 0.8, 0.7, 0.9), (0.5, 0.4, 0.3, 0.5)]
    accuracy_over_scale({"plain": curve, "rectangle": curve}, "lite0", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1200, 630)
