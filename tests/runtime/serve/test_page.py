"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.page import answer, event
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.outputs.output import Status
from ffn_edge.runtime.policy.interface import Limits, Sensed
from ffn_edge.runtime.serve.board import Board
from ffn_edge.runtime.serve.http import HttpServer, HttpSettings

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]

Show = Callable[..., None]
Serve = Callable[..., HttpServer]
# As names of classes and cameras may be.
HOSTILE = (
    """<img src=x onerror="document.title='run'">'"&amp;\n</script><script>alert(1)</script>"""
)
LONG = "a-camera-with-a-name-that-has-no-end-" * 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens the page; nothing may be wrong in it when the test ends."""
    contexts, wrong, asked = [], [], []

    def start(url: str, width: int = 1280, height: int = 800, **fields: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **fields)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda each: wrong.append(each.text) if each.type == "error" else None)
        page.on("pageerror", lambda each: wrong.append(str(each)))
        page.on("dialog", lambda each: wrong.append(each.message))
        page.on("request", lambda each: asked.append(each.url))
        page.goto(url)
        page.wait_for_selector("#well")  # of the page that signing in leads to
        until(page, "document.querySelector('#well').textContent !== 'Connecting'")
        return page

    yield start
    for context in contexts:
        context.close()
    # A server that is away, or wants another token, is an error in the console, of the network.
    assert not [each for each in wrong if not re.search("net::ERR_|status of 401", each)]
    assert not [
        each for each in asked if not each.startswith(("http://127.0.0.1:", "data:", "blob:"))
    ]


def has(page: Any, selector: str, text: str) -> None:
    """Wait until an element says a text."""
    until(
        page,
        "([selector, text]) => [...document.querySelectorAll(selector)]"
        ".some((each) => each.textContent.includes(text))",
        [selector, text],
    )


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until something is so; what playwright has for it, the page's policy forbids."""
    end_s = time.monotonic() + 20
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end_s, (expression, argument)
        page.wait_for_timeout(50)


def test_it_shows_what_each_camera_sees_and_why(
    serve: Serve, show: Show, open_page: Callable[..., Any]
) -> None:
    board = Board(["door", "yard"], lambda: [Status(name="mqtt", sent=7, fault="refused by it")])
    board.result(answer("door", "wave", frames=4, reason="keeps the deadline"))
    board.lost("yard", "no route to host")
    page = open_page(serve(board).url)

    has(page, ".camera", "wave")
    has(page, ".camera", "4 frames: keeps the deadline")
    has(page, ".camera", "31 ms of 80 ms")
    has(page, ".camera", "no route to host")
    has(page, "#outputs", "refused by it")
    has(page, "#charts", "budget 12.0 W")
    has(page, "#well", "yard is lost")

    page.wait_for_timeout(300)  # until it asks for pictures
    deadline = time.monotonic() + 20
    while page.evaluate("document.querySelector('.view canvas').width") == 300:
        assert time.monotonic() < deadline
        show(board, "door")
        page.wait_for_timeout(100)
    pixel = page.evaluate(
        "[...document.querySelector('.view canvas').getContext('2d').getImageData(9, 9, 1, 1).data]"
    )
    assert all(abs(each - 128) < 4 for each in pixel[:3])  # JPEG: rounding


def test_it_says_that_not_all_is_well(
    serve: Serve, show: Show, open_page: Callable[..., Any]
) -> None:
    ago_s = [20.0]
    board = Board(["door"], clock=lambda: time.time() - ago_s[0])
    page = open_page(serve(board).url)
    has(page, "#well", "Waiting for door")
    show(board, "door")
    has(page, "#well", "Waiting for door")
    board.result(answer("door"))
    has(page, "#well", "All well")
    ago_s[0] = 0.0
    has(page, "#well", "door gives no answers")
    board.still("door", 2.0)
    has(page, "#well", "All well")


def test_without_a_budget_nobody_misses_a_meter(
    serve: Serve, show: Show, open_page: Callable[..., Any]
) -> None:
    board = Board(["door"])
    blind = Sensed(fault="no sensor of power")
    board.result(answer("door", sensed=blind, limits=Limits(latency_ms=80)))
    show(board, "door")
    page = open_page(serve(board).url)
    has(page, "#well", "All well")
    assert not page.locator(".warning").is_visible()
    assert not page.get_by_text("Power").is_visible()

    board.result(answer("door", sensed=blind, limits=Limits(latency_ms=80, power_w=12)))
    has(page, ".warning", "no sensor")


def test_an_event_comes_and_ends(serve: Serve, open_page: Callable[..., Any]) -> None:
    board = Board(["door"])
    page = open_page(serve(board).url)
    assert page.locator("#none").is_visible()
    whole = event(1, "door", "fall", time.time() - 5, 4.0)

    board.event(replace(whole, end_s=None))
    has(page, "#list td", "fall")
    has(page, "#list td", "for ")
    has(page, ".track i", "fall")
    has(page, "#told", "door: fall")

    board.event(whole)
    has(page, "#list td", "4.0 s")
    assert page.locator("#list tr").count() == page.locator(".track i").count() == 1


def test_names_are_text(serve: Serve, open_page: Callable[..., Any]) -> None:
    board = Board([HOSTILE], lambda: [Status(name=HOSTILE, fault=HOSTILE)])
    board.result(answer(HOSTILE, HOSTILE, reason=HOSTILE, warning=HOSTILE))
    board.event(event(1, HOSTILE, HOSTILE, time.time() - 5, 4.0))
    page = open_page(serve(board).url)

    for selector in (".chip", ".answer", "summary", ".warning", "#outputs", "#list", ".lane"):
        has(page, selector, HOSTILE)
    assert page.title() == "ffn-edge"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(
    width: int, serve: Serve, open_page: Callable[..., Any]
) -> None:
    names = ["door", LONG, HOSTILE]
    board = Board(names, lambda: [Status(name=LONG, fault=LONG)])
    for name in names:
        board.result(answer(name, LONG, reason=LONG, warning=LONG))
        board.event(event(1, name, LONG, time.time() - 5, 4.0))
    page = open_page(serve(board).url, width=width)
    has(page, "#list td", LONG)

    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")

    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Nor is anything cut off that cannot be read elsewhere.
    cut = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((each) => each.offsetParent &&"
        " !each.closest('.track, .clip') && each.getBoundingClientRect().right >"
        " document.documentElement.clientWidth).map((each) => each.outerHTML.slice(0, 80))"
    )
    assert cut == []


def test_it_comes_back_when_the_server_does(open_page: Callable[..., Any]) -> None:
    board = Board(["door"])
    board.result(answer("door", "wave"))
    with HttpServer(HttpSettings(port=0), board) as server:
        page = open_page(server.url)
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    has(page, "#well", "Not connected")
    assert page.locator("#banner").is_visible()

    other = Board(["door", "hall"])
    other.result(answer("hall", "fall"))
    with HttpServer(HttpSettings(port=port), other):
        has(page, ".camera", "hall")
        has(page, ".camera", "fall")
        until(page, "document.querySelector('#banner').hidden")
        assert page.locator(".camera").count() == 2


def test_a_link_with_the_token_leaves_no_token_in_the_address(
    serve: Serve, open_page: Callable[..., Any], browser: Any
) -> None:
    board = Board(["door"])
    url = serve(board, token="token-of-the-page").url

    context = browser.new_context()
    stranger = context.new_page()
    assert stranger.goto(url).status == 401
    stranger.get_by_label("Token").fill("token-of-the-page")
    stranger.get_by_role("button").click()
    stranger.wait_for_selector(".camera")
    assert stranger.url == url
    context.close()

    page = open_page(url + "?token=token-of-the-page")
    page.wait_for_selector(".camera")
    assert page.url == url
    assert "token" not in page.evaluate("document.cookie")


def test_another_token_asks_to_sign_in_again(open_page: Callable[..., Any]) -> None:
    with HttpServer(HttpSettings(port=0, token=Secret("one", "one")), Board(["door"])) as server:
        page = open_page(server.url + "?token=one")
        has(page, ".camera", "door")
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    with HttpServer(HttpSettings(port=port, token=Secret("other", "other")), Board(["door"])):
        page.get_by_label("Token").wait_for()


def test_other_cameras_after_a_reload_of_the_settings(
    serve: Serve, open_page: Callable[..., Any]
) -> None:
    board = Board(["door", "yard"])
    page = open_page(serve(board).url)
    has(page, ".camera", "yard")

    board.set_cameras(["hall"])

    has(page, ".camera", "hall")
    assert page.locator(".camera").count() == page.locator(".track").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str, serve: Serve, open_page: Callable[..., Any]) -> None:
    page = open_page(serve(Board(["door"])).url, color_scheme=scheme)
    colours = page.evaluate(
        "(() => { const root = getComputedStyle(document.documentElement);"
        " const of = (name) => { const canvas = document.createElement('canvas').getContext('2d');"
        " canvas.fillStyle = root.getPropertyValue(name).trim(); canvas.fillRect(0, 0, 1, 1);"
        " return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)]; };"
        " return Object.fromEntries(['ink', 'dim', 'accent', 'warn', 'bad', 'good', 'card', 'back']"
        ".map((name) => [name, of('--' + name)])); })()"
    )

    def light(name: str) -> float:
        parts = [each / 255 for each in colours[name]]
        linear = [(p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4) for p in parts]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    for behind in ("card", "back"):
        for name in ("ink", "dim", "accent", "warn", "bad", "good"):
            low, high = sorted((light(name), light(behind)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, behind)  # WCAG 2.2, 1.4.3: AA
