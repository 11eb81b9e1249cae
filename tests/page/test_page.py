"""The page for people in a real browser, against the real service."""

import base64
import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Dialog, FilePayload, Locator, Page, expect

from evaluation.samples import SAMPLES
from tests.conftest import LITE0
from tests.page.conftest import OpenPage, Proxy
from tests.service.conftest import LITE1, Server, StartServer

COFFEE, ROCKET, CHELSEA = (SAMPLES[name].path for name in ("coffee", "rocket", "chelsea"))
ASKED = {"top_k": "5", "max_boxes": "20", "arms": "background,detector"}
DROP = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const event = KIND;
    document.body.dispatchEvent(event);
}"""
DRAGGED = "new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })"
PASTED = "new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true })"


def hand_over(page: Page, photo: Path, kind: str = DRAGGED) -> None:
    expect(page.locator("body[data-ready]")).to_be_attached()
    data = base64.b64encode(photo.read_bytes()).decode()
    page.evaluate(DROP.replace("KIND", kind), [photo.name, "image/png", data])


def choose(page: Page, *photos: Path | FilePayload) -> None:
    expect(page.locator("body[data-ready]")).to_be_attached()
    payloads = [named(photo.name, photo.read_bytes()) if isinstance(photo, Path) else photo for photo in photos]
    page.set_input_files("#choose", payloads)


def named(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


def answered(page: Page) -> Locator:
    """The verdict, once the answer on show is that of what is chosen."""
    verdict = page.locator("#answer:not(.stale) #verdict h2")
    expect(verdict).to_be_visible()
    return verdict


def first_labels(page: Page) -> dict[str, str]:
    arms = ("plain", "cropped", "combined", "background", "detector")
    return {arm: page.locator(f".arm.{arm} .bars li").first.locator(".label").inner_text() for arm in arms}


def predict(server: Server, photo: Path, **options: str) -> dict[str, Any]:
    response = httpx.post(f"{server.url}/predict", params=ASKED | options, files={"image": photo.read_bytes()})
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("kind", [DRAGGED, PASTED], ids=["dropped", "pasted"])
def test_a_photo_is_answered_as_the_service_answers(open_page: OpenPage, server: Server, kind: str) -> None:
    page = open_page()
    hand_over(page, COFFEE, kind)
    expect(answered(page)).to_have_text("The background does not decide: with it and without it, this is espresso.")
    expected = predict(server, COFFEE)
    arms = {**{arm: expected[arm] for arm in ("plain", "cropped", "combined")}, **expected["arms"]}
    assert first_labels(page) == {arm: found["top_k"][0]["label"] for arm, found in arms.items()}
    share = f"{100 * expected['plain']['top_k'][0]['probability']:.0f} %"
    expect(page.locator(".arm.plain .share").first).to_have_text(share)
    for number, corner in zip(expected["box"]["xyxy"], ("left", "top", "right", "bottom"), strict=True):
        assert float(page.locator(f"#box-{corner}").input_value()) == pytest.approx(number, abs=0.06)
    drawn = page.locator(".overlay rect.box").last
    assert float(drawn.get_attribute("width") or 0) == pytest.approx(
        expected["box"]["xyxy"][2] - expected["box"]["xyxy"][0], abs=0.1
    )
    expect(page.locator(".overlay rect.crop").last).to_be_visible()
    expect(page.locator("#details")).to_contain_text(LITE0)
    expect(page.locator("#details")).to_contain_text(expected["models"]["detector"]["sha256"][:12])
    expect(page.locator("pre")).to_have_text(f"curl -F image=@coffee.png {server.url}/predict")
    assert page.locator("#other-boxes").is_enabled()
    page.locator("#other-boxes").check()
    expect(page.locator(".overlay rect.other")).to_have_count(len(expected["boxes"]) - 1)


def test_the_crop_is_drawn_as_the_classifier_saw_it(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    crop = predict(server, COFFEE)["crop"]["xyxy"]
    with Image.open(COFFEE) as photo:
        expected = (
            photo.convert("RGB")
            .resize((224, 224), Image.Resampling.BICUBIC, box=tuple(crop))
            .resize((8, 8), Image.Resampling.BOX)
        )
    read = "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 224, 224).data)"
    found = bytes(page.locator(".arm.cropped canvas").evaluate(read))
    seen = Image.frombytes("RGBA", (224, 224), found).convert("RGB").resize((8, 8), Image.Resampling.BOX)
    pairs = zip(seen.tobytes(), expected.tobytes(), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 4


def test_a_photo_stands_upright(open_page: OpenPage, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(COFFEE) as photo:
        photo.convert("RGB").save(turned, exif=exif)
    page = open_page()
    choose(page, turned)
    answered(page)
    expect(page.locator("#stage-caption")).to_contain_text(re.compile("400 . 600 JPEG"))
    width, height = page.locator(".frame img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert (width, height) == (400, 600)
    box = page.locator(".frame").bounding_box()
    assert box is not None
    assert box["height"] / box["width"] == pytest.approx(1.5, abs=0.02)


def test_samples_are_a_click_away(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    page.get_by_role("button", name="rocket").click()
    expect(answered(page)).to_contain_text("missile")


def test_options_are_followed(open_page: OpenPage) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    with page.expect_request("**/predict?*") as asked:
        page.get_by_label("Backbone", exact=True).select_option(LITE1)
    assert f"backbone={LITE1}" in asked.value.url
    answered(page)
    expect(page.locator("#details")).to_contain_text(f"{LITE1}, 240 px")
    with page.expect_request("**/predict?*") as asked:
        page.locator("#margin").fill("0.4")
    assert "margin=0.4" in asked.value.url
    with page.expect_request("**/predict?*") as asked:
        page.get_by_label("Label space").select_option("imagenet-a")
    answered(page)
    with page.expect_request("**/predict?*") as asked:
        page.locator("#min_score").fill("1")
    expect(answered(page)).to_contain_text("No object was found")
    expect(page.locator(".arm.cropped")).to_contain_text("No crop")
    page.get_by_role("button", name="Defaults").click()
    expect(answered(page)).to_contain_text("espresso")
    expect(page.locator("pre")).not_to_contain_text("?")


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From and to shares of the photo's sides."""
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    points = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def corners(page: Page) -> list[float]:
    return [float(page.locator(f"#box-{corner}").input_value()) for corner in ("left", "top", "right", "bottom")]


def test_a_box_is_drawn_moved_and_given_back(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    detected = corners(page)
    page.get_by_role("button", name="Draw a box").click()
    drag(page, (0.25, 0.25), (0.5, 0.5))
    answered(page)
    expect(page.locator("#stage-caption")).to_contain_text("your own box")
    drawn = corners(page)
    assert drawn == pytest.approx([150, 100, 300, 200], abs=2)
    drag(page, (0.375, 0.375), (0.475, 0.375))
    answered(page)
    assert corners(page) == pytest.approx([210, 100, 360, 200], abs=2)
    drag(page, (0.6, 0.5), (0.7, 0.7))
    answered(page)
    assert corners(page) == pytest.approx([210, 100, 420, 280], abs=3)
    box = ",".join(f"{corner:g}" for corner in corners(page))
    expected = predict(server, COFFEE, box=box)
    assert first_labels(page)["cropped"] == expected["cropped"]["top_k"][0]["label"]
    expect(page.locator("pre")).to_contain_text(f"box={box}")
    page.locator("summary", has_text="Corners").click()
    page.locator("#box-right").fill("700")
    page.locator("#box-right").blur()
    expect(page.locator("#fault")).to_contain_text("box must lie inside the photo, 0,0,600,400")
    page.get_by_role("button", name="Back to the detected box").click()
    answered(page)
    assert corners(page) == pytest.approx(detected, abs=0.1)


def test_the_answer_follows_while_a_box_is_dragged(open_page: OpenPage) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    page.get_by_role("button", name="Draw a box").click()
    page.mouse.move(frame["x"] + 20, frame["y"] + 20)
    page.mouse.down()
    with page.expect_response("**/predict?*box=*"):
        page.mouse.move(frame["x"] + 120, frame["y"] + 120)
    with page.expect_response("**/predict?*box=*"):
        page.mouse.move(frame["x"] + 220, frame["y"] + 160)
    page.mouse.up()
    expect(page.locator("#stage-caption")).to_contain_text("your own box")


def test_a_batch_of_ten(open_page: OpenPage) -> None:
    page = open_page()
    choose(page, *([COFFEE, ROCKET, CHELSEA] * 3), CHELSEA)
    expect(page.locator("#tally")).to_contain_text("10 of 10 answered", timeout=60_000)
    expect(page.locator(".tile:not(.failed):not(.waiting):not(.asking)")).to_have_count(10)
    page.locator(".tile").nth(1).click()
    expect(answered(page)).to_contain_text("missile")
    page.get_by_role("button", name="Remove rocket.jpg").first.click()
    expect(page.locator(".tile")).to_have_count(9)


def test_backbones_side_by_side(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, CHELSEA)
    answered(page)
    page.get_by_label("Ask all of them").check()
    rows = page.locator("#comparison tbody tr")
    expect(rows).to_have_count(2)
    for number, name in enumerate((LITE0, LITE1)):
        expected = predict(server, CHELSEA, backbone=name)
        expect(rows.nth(number)).to_contain_text(name)
        expect(rows.nth(number).locator("td").first).to_contain_text(expected["plain"]["top_k"][0]["label"])


def counted(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/experiment").json()["backbones"].get(LITE0, {"labelled": 0})
    return found


def test_feedback_and_undo(open_page: OpenPage, server: Server) -> None:
    before = counted(server)["labelled"]
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    page.locator(".chip", has_text="espresso").click()
    told = page.locator(".told")
    expect(told).to_contain_text("Learnt: espresso")
    expect(told).to_contain_text("Plain is right")
    expect(page.locator(".bars li.right").first).to_contain_text("espresso")
    assert counted(server)["labelled"] == before + 1
    page.get_by_label("Another label").fill("crane")
    options = page.locator("#label-list [role=option]")
    expect(options.first).to_contain_text("crane")
    options.nth(1).click()
    expect(told).to_contain_text("Plain is wrong")
    assert counted(server)["labelled"] == before + 1
    page.get_by_role("button", name="Undo").click()
    expect(told).to_be_empty()
    expect(page.locator(".bars li.right")).to_have_count(0)
    assert counted(server)["labelled"] == before


def test_the_experiment_is_followed_live(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    page.locator(".chip", has_text="espresso").click()
    expect(page.locator(".told")).to_contain_text("Learnt")
    page.get_by_role("link", name="Experiment").click()
    card = page.get_by_role("article", name=LITE0)
    known = counted(server)
    expect(card).to_contain_text(f"{known['labelled']} labelled")
    told = card.get_by_role("img").get_attribute("aria-label")
    assert told is not None
    assert f"plain {100 * known['arms']['plain']['accuracy']:.0f} %" in told
    newest = page.locator("#experiment tbody tr").first
    expect(newest).to_contain_text("espresso")
    request_id = httpx.post(f"{server.url}/predict", files={"image": ROCKET.read_bytes()}).json()["request_id"]
    httpx.post(f"{server.url}/feedback", json={"request_id": request_id, "label": "missile"}).raise_for_status()
    expect(newest).to_contain_text(request_id[:12])
    expect(newest.locator("td").nth(5)).to_have_text("missile")
    expect(card).to_contain_text(f"{known['labelled'] + 1} labelled")
    page.get_by_text("Last week").click()
    expect(page.locator(".course figure")).to_have_count(3)
    page.get_by_text("Rescued", exact=True).click()
    expect(page.locator("#experiment")).to_contain_text("There are no such answers.")
    page.get_by_text("All", exact=True).click()
    page.locator("tbody tr", has_text="espresso").first.get_by_role("button").click()
    expect(answered(page)).to_contain_text("espresso")


def test_the_experiment_of_the_answers_since_a_moment(open_page: OpenPage, server: Server) -> None:
    """In a time zone that is not the service's."""

    def ask() -> None:
        httpx.post(f"{server.url}/predict", files={"image": ROCKET.read_bytes()}, timeout=60).raise_for_status()

    ask()
    page = open_page(path="/#experiment", timezone_id="Asia/Kathmandu")
    state, card = page.locator("#experiment .state"), page.get_by_role("article", name=LITE0)
    expect(card).to_be_visible()
    page.wait_for_timeout(1000)  # What was answered in this very second would count.
    page.get_by_role("button", name="From now on").click()
    expect(state).to_contain_text("No answers since then")
    expect(card).to_be_hidden()
    ask()
    expect(card).to_contain_text("1 answer, 0 labelled")
    page.get_by_label("Answers since").fill("2020-01-01T00:00:00")
    expect(card).not_to_contain_text("1 answer,")
    with page.expect_request("**/experiment?*") as asked:
        page.get_by_role("button", name="From the beginning").click()
    assert "since" not in asked.value.url


def test_errors_are_told_as_the_service_words_them(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, named("junk.jpg", b"junk"))
    detail = httpx.post(f"{server.url}/predict", files={"image": b"junk"}).json()["detail"]
    expect(page.locator("#fault")).to_contain_text(detail)
    expect(page.locator(".tile.failed")).to_have_count(1)
    choose(page, named("large.jpg", bytes(2_000_001)))
    # A browser that is still sending may lose the answer with the connection.
    expect(page.locator("#fault")).to_contain_text(re.compile("more than 2000000 bytes|too large"))
    choose(page, COFFEE)
    expect(answered(page)).to_contain_text("espresso")
    expect(page.locator("#fault")).to_be_hidden()


def test_a_busy_service_is_waited_for(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    choose(page, COFFEE)
    answered(page)
    stop = threading.Event()

    def flood() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                client.post("/predict", files={"image": COFFEE.read_bytes()})

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        waiting = page.locator("#fault", has_text="Asking again in")
        for number in range(20):
            page.get_by_label("Which box").select_option(index=1 + number % 2)
            try:
                expect(waiting).to_contain_text("full", timeout=1500)
                break
            except AssertionError:
                continue
        else:
            pytest.fail("the queue was never full")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    expect(answered(page)).to_contain_text("espresso")
    expect(page.locator("#fault")).to_be_hidden()


def test_a_service_that_was_gone_is_asked_again(open_page: OpenPage, proxy: Proxy) -> None:
    page = open_page(f"http://127.0.0.1:{proxy.port}")
    choose(page, COFFEE)
    answered(page)
    proxy.close()
    choose(page, ROCKET)
    expect(page.locator("#away")).to_be_visible()
    expect(page.locator("#waiting")).to_contain_text("does not answer")
    proxy.open()
    expect(answered(page)).to_contain_text("missile")
    expect(page.locator("#away")).to_be_hidden()


def test_a_page_that_was_visited_before_still_works(open_page: OpenPage) -> None:
    page = open_page()
    for _ in range(2):
        page.reload()
        choose(page, COFFEE)
        answered(page)


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, selector: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the tab key never reaches {selector}")


def test_keyboard_only(open_page: OpenPage, server: Server) -> None:
    before = counted(server)["labelled"]
    page = open_page()
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    tab_to(page, ".sample[title]:nth-of-type(2)")
    press(page, "Enter")
    expect(answered(page)).to_contain_text("espresso")
    detected = corners(page)
    tab_to(page, ".box-body")
    press(page, "ArrowLeft")
    answered(page)
    expect(page.locator("#stage-caption")).to_contain_text("your own box")
    assert corners(page)[0] < detected[0]
    assert page.evaluate("document.activeElement.classList.contains('box-body')")
    press(page, "Shift+ArrowLeft")
    answered(page)
    assert corners(page)[2] < detected[2] - 6
    press(page, "Escape")
    answered(page)
    assert corners(page) == pytest.approx(detected, abs=0.1)
    tab_to(page, "#backbone")
    press(page, "ArrowDown")
    expect(page.locator("#details")).to_contain_text(LITE1)
    press(page, "ArrowUp")
    expect(page.locator("#details")).not_to_contain_text(LITE1)
    answered(page)
    tab_to(page, "#label")
    page.keyboard.type("espr")
    expect(page.locator("#label-list [aria-selected=true]")).to_contain_text("espresso")
    press(page, "ArrowDown", "ArrowUp", "Enter")
    expect(page.locator(".told")).to_contain_text("Learnt: espresso")
    assert counted(server)["labelled"] == before + 1
    tab_to(page, ".told button")
    press(page, "Enter")
    expect(page.locator(".told")).to_be_empty()
    assert page.evaluate("document.activeElement.id") == "label"
    assert counted(server)["labelled"] == before


def overflow(page: Page) -> int:
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_screen(open_page: OpenPage, width: int) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width == 360 else {}
    page = open_page(width=width, height=740, **phone)
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    assert overflow(page) == 0
    choose(page, COFFEE, ROCKET)
    answered(page)
    page.get_by_label("Ask all of them").check()
    expect(page.locator("#comparison tbody tr")).to_have_count(2)
    assert overflow(page) == 0
    if width == 360:
        expect(page.locator(".camera")).to_be_visible()
        page.get_by_role("button", name="Draw a box").tap()
    page.get_by_role("link", name="Experiment").click()
    expect(page.locator(".backbone").first).to_be_visible()
    assert overflow(page) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(open_page: OpenPage, scheme: str) -> None:
    # axe's script is put into the page, which the page's own policy forbids; motion would blur colours.
    page = open_page(color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    expect(page.locator(".sample")).to_have_count(len(SAMPLES))
    check_accessibility(page)
    choose(page, CHELSEA, named("junk.jpg", b"junk"))
    answered(page)
    page.get_by_label("Ask all of them").check()
    page.locator(".chip").first.click()
    expect(page.locator(".told")).to_contain_text("Learnt")
    page.locator("summary", has_text="Corners").click()
    page.get_by_label("Another label").fill("cat")
    expect(page.locator("#label-list [aria-selected=true]")).to_be_visible()
    check_accessibility(page)
    page.locator(".tile").nth(1).click()
    expect(page.locator("#fault")).to_be_visible()
    check_accessibility(page)
    page.get_by_role("link", name="Experiment").click()
    expect(page.locator(".backbone").first).to_be_visible()
    check_accessibility(page)


def check_accessibility(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    told = [(one["id"], [(node["html"][:120], node["failureSummary"]) for node in one["nodes"]]) for one in grave]
    assert not told, json.dumps(told, indent=1)


def test_names_are_never_run_as_html(open_page: OpenPage) -> None:
    page = open_page()
    dialogs: list[str] = []

    def hear(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", hear)
    name = "<img src=x onerror=alert(1)>'\"; $(touch x).png"
    choose(page, named(name, COFFEE.read_bytes()))
    answered(page)
    expect(page.get_by_role("button", name=f"{name}: background does not decide")).to_be_visible()
    expect(page.locator("pre")).to_contain_text("<img src=x onerror=alert(1)>'\\''")
    page.get_by_label("Another label").fill("<b>x</b>")
    expect(page.locator("#label-list [role=option]")).to_have_text("No label has this in it.")
    assert dialogs == []


def test_a_key_is_asked_for_and_kept_and_without_a_journal_nothing_is_learnt(
    open_page: OpenPage, start_server: StartServer
) -> None:
    with start_server(api_keys="sesame", journal_url="") as guarded:
        page = open_page(guarded.url)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Send one of this service's API keys")
        dialog.get_by_label("API key").fill("wrong")
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog).to_contain_text("This key is not one")
        dialog.get_by_label("API key").fill("sesame")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="coffee").click()
        answered(page)
        expect(page.locator("pre")).to_contain_text('-H "X-API-Key: $KEY"')
        expect(page.locator("#feedback")).to_contain_text("The journal is off")
        page.reload()
        expect(page.locator("body[data-ready]")).to_be_attached()
        expect(dialog).to_be_hidden()
        page.get_by_role("link", name="Experiment").click()
        expect(page.locator("#experiment")).to_contain_text("The journal is off")
