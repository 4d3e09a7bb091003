"""The page in a real browser: it shows the library's answer, with mouse, keyboard, screen reader and phone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lineament
from lineament.covers import redact
from lineament.records import read_records
from serve.browser import Tab, executable, tab
from serve.server import Server, running

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CROWD, PORTRAIT = PHOTOS / "crowd.jpg", PHOTOS / "astronaut.jpg"
LITE = "kpnet-lite-int8"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    executable()
    with running("-m", LITE) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("browser")
    film = folder / "camera.mjpeg"
    with Image.open(PORTRAIT) as photo, film.open("wb") as frames:
        for _ in range(2):
            photo.resize((640, 480)).save(frames, "jpeg")
    with tab(folder / "profile", f"--use-file-for-fake-video-capture={film}") as page:
        yield page


@pytest.fixture
def page(browser: Tab, server: Server) -> Tab:
    browser.resize(1280, 860)
    browser.events.clear()
    browser.open(f"http://127.0.0.1:{server.port}/")
    return browser


def drop(page: Tab, *photos: Path) -> None:
    page.attach("#files", *photos)
    page.until(f"document.querySelectorAll('#strip li').length === {len(photos)}")
    page.until("![...document.querySelectorAll('.count')].some(count => count.textContent === '…')")


def caption(page: Tab) -> str:
    return page.do("document.querySelector('#caption').textContent")


def test_the_page_draws_what_the_library_finds(page: Tab) -> None:
    drop(page, CROWD)
    faces = lineament.load(LITE, threads=1).detect(CROWD).to_dict()["faces"]
    assert caption(page).startswith(f"{len(faces)} faces in crowd.jpg")
    drawn = page.do(
        "[...document.querySelectorAll('#overlay .box')].map("
        "box => ['x', 'y', 'width', 'height'].map(name => +box.getAttribute(name)))"
    )
    corners = np.array([face["box"] for face in faces])
    np.testing.assert_allclose(drawn, np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), atol=1e-6)
    points = page.do("document.querySelector('#overlay .dot:not(.rim)').getAttribute('d')")
    assert points == "".join(f"M{x:g} {y:g}h0" for x, y in faces[0]["landmarks"])
    # A box lies on the screen where its face is on the photo.
    place = "(({left, top, width}) => [left, top, width])(document.querySelector('%s').getBoundingClientRect())"
    left, top, width = page.do(place % "#photo")
    shown = page.do(place % "#overlay .box")
    scale = width / page.do("document.querySelector('#photo').naturalWidth")
    np.testing.assert_allclose(shown[:2], np.array([left, top]) + corners[0, :2] * scale, atol=2)
    assert shown[2] == pytest.approx(scale * (corners[0, 2] - corners[0, 0]), abs=4)


def test_options_ask_again(page: Tab) -> None:
    drop(page, CROWD)
    detector = lineament.load(LITE, threads=1)
    before = caption(page)
    assert page.do("document.querySelector('#threshold-value').textContent") == "0.50"
    page.do("threshold.value = 0.95; threshold.dispatchEvent(new Event('input', {bubbles: true}))")
    count = len(detector.detect(CROWD, threshold=0.95))
    page.until(f"document.querySelector('#caption').textContent.startsWith('{count} faces')")
    assert not before.startswith(f"{count} ")
    page.do("document.querySelector('[type=reset]').click()")
    page.until(f"document.querySelector('#caption').textContent.startsWith('{before.split()[0]} faces')")


def test_each_method_has_its_own_options(page: Tab) -> None:
    drop(page, PORTRAIT)
    page.do("input_size.value = 256; min_face.value = 60")
    page.do("method.value = 'mtcnn'; method.dispatchEvent(new Event('input', {bubbles: true}))")
    page.until("document.querySelector('#caption').textContent.includes('mtcnn')")
    assert page.do("document.querySelector('#input_size').disabled") is True
    page.do("method.value = 'maskface'; method.dispatchEvent(new Event('input', {bubbles: true}))")
    page.do("landmarks.value = '68'; landmarks.dispatchEvent(new Event('input', {bubbles: true}))")
    page.until("document.querySelector('#overlay .dot')?.getAttribute('d').split('M').length === 69")


def test_a_file_that_is_no_photo_is_named(page: Tab) -> None:
    drop(page, PHOTOS / "README.md", PORTRAIT)
    assert "README.md: not an image" in page.do("document.querySelector('#problem').textContent")
    page.do("document.querySelectorAll('#strip button')[1].click()")
    assert caption(page).startswith("1 face in astronaut.jpg")
    assert page.do("document.querySelector('#problem').hidden") is True


def test_everything_works_by_keyboard(page: Tab) -> None:
    def focused() -> str:
        return page.do(
            "(element => element.getAttribute('aria-label') || (element === document.body ? '' : element.textContent))("
            "document.activeElement)"
        ).strip()

    page.press("Tab", 9)
    assert focused() == "Skip to the photos"
    page.press("Tab", 9)
    assert focused() == "Choose photos"
    drop(page, PORTRAIT, CROWD)
    assert focused() == "Photos"
    page.press("ArrowRight", 39)
    assert "in crowd.jpg" in caption(page)
    page.press("ArrowLeft", 37)
    assert "in astronaut.jpg" in caption(page)
    names = []
    while "score" not in focused():
        names.append(focused())
        page.press("Tab", 9)
        assert len(names) < 30, names
    assert {"Add photos", "Remove this photo", "Save redacted", "Save drawn", "Save JSON"} <= set(names)
    page.press("Enter", 13, "\r")
    assert page.do("document.querySelector('#overlay .chosen') !== null") is True
    assert focused().startswith("Face 1, score 0.9")  # the focus stays


def test_a_screen_reader_hears_names_and_results(page: Tab) -> None:
    drop(page, PORTRAIT)
    told = page.named()
    controls = [
        name for role, name in told if role in ("button", "combobox", "slider", "checkbox", "spinbutton", "link")
    ]
    assert len(controls) > 12
    assert all(controls)
    assert ("slider", "Threshold") in told
    assert ("image", "1 face in astronaut.jpg, 512×512") in told
    assert page.do("document.querySelector('[role=status]').textContent") == "1 face in astronaut.jpg, 512×512"
    assert page.do("document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [320, 390, 800])
def test_a_narrow_screen_needs_no_scrolling_sideways(page: Tab, width: int) -> None:
    page.resize(width, 700, mobile=True, scheme="dark")
    drop(page, PORTRAIT, CROWD)
    assert page.do("document.documentElement.scrollWidth") <= width
    small = page.do(
        "[...document.querySelectorAll('button, select')].filter(b => b.checkVisibility() && "
        "b.getBoundingClientRect().height < 36).map(b => b.textContent)"
    )
    assert small == []


def test_nothing_is_asked_of_another_place(page: Tab, server: Server) -> None:
    drop(page, PORTRAIT)
    asked = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    own = (f"http://127.0.0.1:{server.port}/", f"blob:http://127.0.0.1:{server.port}/")
    assert len(asked) > 5
    assert [address for address in asked if not address.startswith(own)] == []
    assert [e for e in page.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_results_are_saved(page: Tab, tmp_path: Path) -> None:
    drop(page, PORTRAIT, CROWD)
    page.save_into(tmp_path)
    page.do("document.querySelector('[data-cover]').click(); document.querySelector('[name=covers]').click()")
    assert page.do("document.querySelectorAll('#overlay .cover').length") == 0
    page.do("document.querySelector('[data-cover]').click()")
    assert page.do("document.querySelectorAll('#overlay .cover').length") == 1
    for action in ("save-json", "save-drawn", "save-redacted"):
        page.do(f"document.querySelector('[data-do={action}]').click()")
        page.until("document.querySelector('#status').textContent.endsWith('is saved.')")
        page.do("document.querySelector('#status').textContent = ''")
    lines, *photos = (tmp_path / f"{name}" for name in ("faces.jsonl", "astronaut-faces.jpg", "astronaut-redacted.jpg"))
    end = time.monotonic() + 10
    while not all(map(Path.exists, (lines, *photos))) and time.monotonic() < end:
        time.sleep(0.05)
    detector = lineament.load(LITE, threads=1)
    for record, photo in zip(read_records(lines), (PORTRAIT, CROWD), strict=True):
        assert record.path == photo.name
        assert record.faces.to_dict() == detector.detect(photo).to_dict()
    faces = detector.detect(PORTRAIT)
    for photo, made in zip(photos, (lineament.draw(PORTRAIT, faces), redact(PORTRAIT, faces)), strict=True):
        with Image.open(photo) as saved:
            assert np.abs(np.subtract(saved, made, dtype=float)).mean() < 2


def test_the_camera_shows_faces_and_takes_photos(page: Tab) -> None:
    page.do("document.querySelector('#empty [data-do=camera]').click()")
    page.until("document.querySelector('#caption').textContent.startsWith('1 face')")
    assert page.do("document.querySelectorAll('#overlay .box').length") == 1
    page.do("document.querySelector('[data-do=take]').click()")
    page.until("document.querySelector('#caption').textContent.startsWith('1 face in camera-')")
    assert page.do("document.querySelector('#camera').srcObject === null") is True


def test_without_a_server_the_page_says_so(page: Tab) -> None:
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        drop(page, PORTRAIT)
        assert "Is it still running?" in page.do("document.querySelector('#problem').textContent")
    finally:
        page.call(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )


def test_the_example_for_programs_is_this_servers(page: Tab, server: Server) -> None:
    assert page.do("document.querySelector('#example').textContent") == (
        f"curl -F photos=@photo.jpg http://127.0.0.1:{server.port}/v1/detect"
    )
    assert json.loads(page.do("fetch('openapi.json').then(a => a.text())"))["info"]["title"] == "lineament"
