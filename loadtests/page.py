"""What the page adds to the request: from the drop of a photo until its answer is on the screen.

python -m loadtests.page

A photo is dropped on the page in a real browser, against the service with its default models, one after the other. The
browser's own clock tells when the drop was handled, when the request went out and its answer was there
(PerformanceResourceTiming), and when the frame with the answer had been painted. The page's part is the time from the
drop to that frame without the request. The large photo's decoding, for showing it, happens meanwhile.
"""

import base64
import os
import statistics
import sys
from io import BytesIO
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect
from rich.console import Console
from rich.table import Table

from evaluation.samples import SAMPLES
from loadtests.browser import CHROMIUM, MISSING, chromium
from service.running import running_service

_ROUNDS = 20
_SIZES = ((600, 400), (4000, 3000))
_START_SECONDS = 600
_DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
_TOLD = """(name) => {
    const drawn = performance.getEntriesByName("figureground:drawn").find((entry) => entry.detail === name);
    if (!drawn) return null;
    const requests = performance.getEntriesByType("resource").filter((entry) => entry.name.includes("/predict?"));
    const { startTime, responseEnd } = requests.at(-1);
    return { drawn: drawn.duration, request: responseEnd - startTime, sent: startTime - drawn.startTime };
}"""


def main() -> None:
    columns = ("photo", "request", "drop to drawn", "the page's part, median", f"worst of {_ROUNDS}")
    table = Table(*columns, title="milliseconds")
    with running_service(environment={**os.environ, "FIGUREGROUND_JOURNAL_URL": ""}) as service:
        service.wait_until_ready(_START_SECONDS)
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"{service.url}/")
            expect(page.locator("body[data-ready]")).to_be_attached()
            for size in _SIZES:
                table.add_row(f"{size[0]} x {size[1]}", *_row(page, size))
    Console().print(table)


def _row(page: Page, size: tuple[int, int]) -> list[str]:
    buffer = BytesIO()
    with Image.open(SAMPLES["coffee"].path) as coffee:
        coffee.convert("RGB").resize(size).save(buffer, "JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    # The first round warms the browser and the service up.
    told = [_drop(page, f"{size[0]}-{number}.jpg", data) for number in range(_ROUNDS + 1)][1:]
    added = [one["drawn"] - one["request"] for one in told]
    medians = (statistics.median(one[name] for one in told) for name in ("request", "drawn"))
    return [*(f"{value:.0f}" for value in medians), f"{statistics.median(added):.0f}", f"{max(added):.0f}"]


def _drop(page: Page, name: str, data: str) -> dict[str, Any]:
    page.evaluate(_DROP, [name, data])
    expect(page.locator(f'.tile[title^="{name}"]:is(.agree, .change, .none)')).to_be_attached(timeout=30_000)
    while True:
        told: dict[str, Any] | None = page.evaluate(_TOLD, name)
        if told is not None:
            page.get_by_role("button", name=f"Remove {name}").click()
            return told


if __name__ == "__main__":
    if not CHROMIUM.exists():
        sys.exit(f"figureground: {MISSING}")
    main()
