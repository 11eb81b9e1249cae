"""Pictures of the page in all its states, at three widths, light and dark: `make screenshots`, into screenshots/.

python -m loadtests.screenshots [FOLDER]

The service is the real one with its default models and a journal of its own; all photos are the samples that come with
scikit-image and scikit-learn, some of them pasted into noise, so that the experiment has something to tell. readme.png
shows public-domain photos only; docs/page.png is a copy of it.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from rich.progress import track

from evaluation.samples import SAMPLES
from loadtests.browser import CHROMIUM, MISSING, chromium
from models.catalog import DEFAULT_BACKBONES
from service.running import running_service

_WIDTHS: Mapping[int, int] = {360: 740, 768: 1024, 1920: 1080}
_SCHEMES = ("light", "dark")
_HISTORY = 30
_COFFEE, _ROCKET, _CHELSEA = (SAMPLES[name].path for name in ("coffee", "rocket", "chelsea"))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as journal:
        settings = {"FIGUREGROUND_JOURNAL_URL": f"sqlite:///{journal}/journal.db"}
        with running_service(environment={**os.environ, **settings}) as service:
            service.wait_until_ready()
            _make_history(service.url)
            with chromium() as browser:
                views = [(width, scheme) for width in _WIDTHS for scheme in _SCHEMES]
                for width, scheme in track(views, "Pictures"):
                    for name, picture in _states(browser, service.url, width, scheme):
                        (folder / f"{name}-{width}-{scheme}.png").write_bytes(picture)
                (folder / "readme.png").write_bytes(_for_readme(browser, service.url))
    print(f"{len(list(folder.glob('*.png')))} pictures are in {folder}/")


def _states(browser: Browser, url: str, width: int, scheme: str) -> Iterator[tuple[str, bytes]]:
    context = browser.new_context(
        viewport={"width": width, "height": _WIDTHS[width]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(f"{url}/")
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    states: Mapping[str, Callable[[Page], None]] = {
        "empty": lambda _: None,
        "agree": _answered,
        "change": _changed,
        "drawn": _drawn,
        "error": _refused,
        "experiment": _experiment,
    }
    for name, reach in states.items():
        reach(page)
        yield name, page.screenshot(full_page=name != "empty")
    context.close()


def _for_readme(browser: Browser, url: str) -> bytes:
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.goto(f"{url}/")
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    page.locator("#samples-panel").evaluate("(panel) => { panel.hidden = true; }")
    page.set_input_files("#choose", [_CHELSEA, _COFFEE, _ROCKET])
    expect(page.locator(".tile:is(.agree, .change, .none)")).to_have_count(3, timeout=30_000)
    expect(page.locator("#verdict")).to_be_visible()
    picture = page.screenshot()
    page.close()
    return picture


def _answered(page: Page) -> None:
    page.set_input_files("#choose", [_COFFEE, _ROCKET, _CHELSEA])
    expect(page.locator(".tile:is(.agree, .change, .none)")).to_have_count(3, timeout=30_000)
    page.get_by_label("Ask all of them").check()
    page.locator(".chip").first.click()
    expect(page.locator(".told")).to_contain_text("Learnt")
    expect(page.locator("#comparison")).not_to_contain_text("Asking", timeout=30_000)


def _changed(page: Page) -> None:
    page.locator(".tile").nth(2).click()
    page.locator("#other-boxes").check()
    page.get_by_label("Another label").fill("cat")
    expect(page.locator("#comparison")).not_to_contain_text("Asking", timeout=30_000)


def _drawn(page: Page) -> None:
    page.locator(".tile").first.click()
    page.locator("#other-boxes").uncheck()
    page.get_by_role("button", name="Draw a box").click()
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 0.55 * frame["width"], frame["y"] + 0.55 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.72 * frame["width"], frame["y"] + 0.85 * frame["height"], steps=3)
    page.mouse.up()
    expect(page.locator("#stage-caption")).to_contain_text("your own box", timeout=30_000)
    expect(page.locator("#comparison")).not_to_contain_text("Asking", timeout=30_000)


def _refused(page: Page) -> None:
    page.set_input_files("#choose", {"name": "junk.jpg", "mimeType": "image/jpeg", "buffer": b"junk"})
    expect(page.locator("#fault")).to_be_visible()


def _experiment(page: Page) -> None:
    page.get_by_role("link", name="Experiment").click()
    expect(page.locator("#experiment tbody tr").first).to_be_visible()


def _make_history(url: str) -> None:
    random = np.random.default_rng(0)
    names = list(SAMPLES)
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in track(range(_HISTORY), "Answers"):
            sample = SAMPLES[names[number % len(names)]]
            options = {"backbone": DEFAULT_BACKBONES[number % len(DEFAULT_BACKBONES)]}
            photo = _in_noise(sample.path, random) if number % 3 else sample.path.read_bytes()
            answer = client.post("/predict", params=options, files={"image": photo}).raise_for_status().json()
            if number % 5:
                told = {"request_id": answer["request_id"], "label": sample.labels[0]}
                client.post("/feedback", json=told).raise_for_status()


def _in_noise(path: Path, random: np.random.Generator) -> bytes:
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    noise = Image.fromarray(random.integers(0, 255, (photo.height // 8, photo.width // 8, 3), np.uint8))
    canvas = noise.resize(photo.size, Image.Resampling.NEAREST)
    scale = float(random.uniform(0.25, 0.55))
    small = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    x, y = (int(random.integers(0, whole - part)) for whole, part in zip(canvas.size, small.size, strict=True))
    canvas.paste(small, (x, y))
    buffer = BytesIO()
    canvas.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    if not CHROMIUM.exists():
        sys.exit(f"figureground: {MISSING}")
    main(Path(*sys.argv[1:2] or ["screenshots"]))
