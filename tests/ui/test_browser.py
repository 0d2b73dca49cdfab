"""The page as a visitor meets it: the real app.py in a process of its own, in Chromium.

Most tests run a tiny model so that they take a moment; one names the embedded model on the page. LSSGEN_MODEL names
another model for the others. Without a Chromium (LSSGEN_CHROMIUM, or one on the path) they are skipped, but never in
CI.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lssgen.families.folders import ASSETS

ROOT = Path(__file__).resolve().parents[2]
ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("LSSGEN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
START_SECONDS = 90
WAIT = 45_000  # milliseconds a condition may take on a busy machine
SEEN = "image => image.complete && image.naturalWidth > 0"

if CHROMIUM is None and os.environ.get("CI") != "true":
    pytest.skip("no Chromium on this machine (set LSSGEN_CHROMIUM to one)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api") if os.environ.get("CI") != "true" else None
if sync_api is None:
    import playwright.sync_api as sync_api
expect = sync_api.expect
expect.set_options(timeout=WAIT)


def serve(folder: Path, model: str, *options: str) -> Iterator[str]:
    """Start app.py on a free port and yield its address; it is ended with the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port), "--model", model, *options]
    log = folder / "app.log"
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "gradio"), "LSSGEN_TOPIQ_WEIGHTS": str(folder / "no")}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            deadline = time.monotonic() + START_SECONDS
            while "is at http" not in (said := log.read_text()):
                assert process.poll() is None, f"app.py ended:\n{said}"
                assert time.monotonic() < deadline, f"app.py did not start:\n{said}"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[str]:
    model = os.environ.get("LSSGEN_MODEL", str(tiny_folder))
    yield from serve(tmp_path_factory.mktemp("app"), model, "--no-warm-up")


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    assert CHROMIUM, "CI needs a Chromium for the page's tests: install one, or set LSSGEN_CHROMIUM"
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """A visitor's page with the plan drawn; any request to another machine and any script error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page, foreign, errors = context.new_page(), [], []
    local = (address, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(local) else foreign.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(WAIT)
    page.goto(address)
    expect(page.locator(".ls-plan tbody tr").first).to_be_visible()
    yield page
    context.close()
    assert foreign == []
    assert errors == []


def settings(page: sync_api.Page, side: int, start: int, steps: int) -> None:
    """Set the size and steps through the controls."""
    if not page.locator("#width input").is_visible():
        page.locator("#advanced > button").click()
    for name, value in (("width", side), ("height", side), ("steps", steps), ("start", start)):
        box = page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")


def finished(page: sync_api.Page) -> None:
    expect(page.locator(".ls-status")).to_have_class(re.compile("ls-done"))
    for name in ("lssgen", "baseline"):
        picture = page.locator(f"#image-{name} img")
        expect(picture).to_be_visible()
        page.wait_for_function(SEEN, arg=picture.element_handle())


def test_a_comparison_from_click_to_scores(page):
    settings(page, 256, 128, 12)
    page.locator("#run").click()
    finished(page)
    assert page.locator("#image-lssgen img").evaluate("i => i.naturalWidth") == 256
    expect(page.locator("#slider img").first).to_be_visible()
    expect(page.locator("#stages figure")).to_have_count(3)
    expect(page.locator("#timings .ls-bar-row")).to_have_count(2)
    expect(page.locator("#scores")).to_contain_text("PIQE")
    expect(page.locator("#scores")).to_contain_text("TOPIQ")
    expect(page.locator("#run")).to_be_enabled()
    with page.expect_download() as download:
        page.locator("#save-lssgen").click()
    assert Path(download.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    prompt = page.locator("#prompt textarea")
    asked = prompt.input_value()
    prompt.fill("a green tree")
    expect(page.locator("#changed")).to_contain_text("Settings have changed")
    prompt.fill(asked)
    expect(page.locator("#changed")).to_have_count(0)


def test_the_plan_follows_the_sliders(page):
    settings(page, 256, 128, 12)
    expect(page.locator(".ls-plan tbody tr").nth(0)).to_contain_text("128 × 128")
    head = page.locator(".ls-plan-head")
    before = head.inner_text()
    sigma = page.locator("#sigma input[type=range]")
    sigma.focus()
    for _ in range(40):
        sigma.press("ArrowLeft")
    expect(head).not_to_have_text(before)
    page.locator("#auto input").uncheck()
    expect(page.locator("#split")).to_be_visible()
    expect(head).to_contain_text("12 steps")


def test_the_advanced_controls_open_below_the_others(page):
    """The knobs' column wrapped into a second, hidden column as soon as it was taller than the window."""
    settings(page, 256, 128, 12)
    left = [page.locator(place).bounding_box()["x"] for place in ("#prompt", "#advanced")]
    assert abs(left[0] - left[1]) < 4


def test_a_bad_size_is_one_message_and_leaves_the_page_usable(page):
    settings(page, 257, 128, 12)
    expect(page.locator("#plan")).to_contain_text("multiple of 8: use 256 or 264")
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("multiple of 8: use 256 or 264")
    expect(page.locator("#run")).to_be_enabled()
    settings(page, 256, 128, 12)
    page.locator("#run").click()
    finished(page)


def test_stop_keeps_what_was_made(page):
    settings(page, 768, 256, 50)
    page.locator("#run").click()
    page.locator("#stages figure").first.wait_for()
    page.locator("#stop").click()
    expect(page.locator(".ls-status")).to_have_class(re.compile("ls-stopped"))
    expect(page.locator("#stages figure").first).to_be_visible()
    expect(page.locator("#run")).to_be_enabled()


def test_nothing_is_wider_than_a_phone(page):
    settings(page, 256, 128, 12)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#run").click()
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_surprise_by_keyboard_is_planned_and_read_out(page):
    button, prompt = page.get_by_role("button", name="Surprise me"), page.locator("#prompt textarea")
    for _ in range(2):
        before = prompt.input_value()
        button.press("Enter")
        expect(prompt).not_to_have_value(before)
        expect(page.locator("#idea [role=status]")).to_contain_text(prompt.input_value())


def test_the_page_says_which_words_the_embedded_model_does_not_know(page):
    model = page.locator("#model input")
    page.locator("#advanced > button").click()
    model.fill("embedded")
    model.press("Enter")
    page.locator("#prompt textarea").fill("cats in a zeppelin, 3d")
    expect(page.locator("#plan .ls-notes")).to_contain_text("read as “3d cat in a zeppelin”")
    expect(page.locator("#plan .ls-notes")).to_contain_text("does not know “zeppelin”")


def test_the_embedded_model_draws(page):
    assert (ASSETS / "embedded" / "model_index.json").is_file(), "assets/embedded is not in this checkout"
    settings(page, 256, 128, 8)
    model = page.locator("#model input")
    model.fill("embedded")
    model.press("Enter")
    expect(page.locator(".ls-plan tbody tr")).to_have_count(3)
    page.locator("#run").click()
    finished(page)
