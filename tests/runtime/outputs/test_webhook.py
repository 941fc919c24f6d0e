"""The webhook with real servers on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ffn_edge.files.secret import Secret
from ffn_edge.runtime.outputs.spool import Spool
from ffn_edge.runtime.outputs.webhook import Webhook, WebhookSettings, why_no_address

Await = Callable[[Callable[[], object]], None]


class Receiver:
    """Answers each POST with the next of `codes`, and then with 204.

    Attributes:
        url: of it, with a token that nobody else may see.
        posts: headers and body of each, in the order in which they came.
    """

    def __init__(self, *codes: int, location: str = "", wait_s: float = 0.0) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        left = list(codes)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((dict(self.headers), body))
                time.sleep(wait_s)
                self.send_response(left.pop(0) if left else 204)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=hunter2"

    @property
    def ids(self) -> list[str]:
        """Of the events that came."""
        return [json.loads(body)["id"] for _, body in self.posts]


@contextmanager
def running(receiver: Receiver) -> Iterator[Receiver]:
    with receiver.server:
        thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def new(url: str, folder: Path, *, timeout_s: float = 5.0, secret: str | None = None) -> Webhook:
    settings = WebhookSettings(
        url=Secret(url, url),
        secret=None if secret is None else Secret(secret, secret),
        timeout_s=timeout_s,
    )
    return Webhook(settings, folder / "spool", pauses_s=(0.05, 0.1))


def test_an_event_arrives_signed_and_with_a_key(
    tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with running(Receiver()) as receiver, new(receiver.url, tmp_path, secret="s3cret") as webhook:
        webhook.event(new_event())
        webhook.event(new_event(end_s=12.0))
        wait_until(lambda: webhook.status().sent == 2)
    (first, body), (second, _) = receiver.posts
    assert json.loads(body) == new_event().fields() | {"phase": "begin"}
    signature = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert first["X-Ffn-Edge-Signature"] == f"sha256={signature}"
    assert first["Idempotency-Key"] == "event-1:begin"
    assert second["Idempotency-Key"] == "event-1:end"
    assert first["Content-Type"] == "application/json"


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_what_may_go_later_is_sent_again_before_the_next(
    tmp_path: Path, new_event: Any, wait_until: Await, code: int
) -> None:
    with running(Receiver(code, code)) as receiver, new(receiver.url, tmp_path) as webhook:
        webhook.event(new_event(1))
        webhook.event(new_event(2))
        wait_until(lambda: webhook.status().sent == 2)
        assert (webhook.status().dropped, webhook.status().fault) == (0, None)
    assert receiver.ids == ["event-1"] * 3 + ["event-2"]
    assert len({headers["Idempotency-Key"] for headers, _ in receiver.posts}) == 2


@pytest.mark.parametrize("code", [400, 404, 410])
def test_what_is_refused_is_dropped_and_said(
    tmp_path: Path,
    new_event: Any,
    wait_until: Await,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(Receiver(code)) as receiver, new(receiver.url, tmp_path) as webhook:
        webhook.event(new_event(1))
        webhook.event(new_event(2))
        wait_until(lambda: webhook.status().sent == 1)
        assert (webhook.status().dropped, webhook.status().waiting) == (1, 0)
    assert receiver.ids == ["event-1", "event-2"]
    assert str(code) in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(
    tmp_path: Path, new_event: Any, wait_until: Await, code: int
) -> None:
    with running(Receiver()) as other, running(Receiver(*[code] * 99, location=other.url)) as to:
        with new(to.url, tmp_path, secret="s3cret") as webhook:
            webhook.event(new_event())
            wait_until(lambda: "redirection" in (webhook.status().fault or ""))
            assert webhook.status().waiting == 1
        assert not other.posts


def test_a_receiver_that_hangs_holds_nobody_up(
    tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with running(Receiver(wait_s=1.0)) as receiver:
        with new(receiver.url, tmp_path, timeout_s=0.2) as webhook:
            start = time.monotonic()
            for number in range(50):
                webhook.event(new_event(number))
            assert time.monotonic() - start < 0.2
            wait_until(lambda: "answer" in (webhook.status().fault or ""))
        assert time.monotonic() - start < 5
    with running(Receiver()) as receiver, new(receiver.url, tmp_path) as webhook:
        wait_until(lambda: webhook.status().sent == 50)  # the next run
    assert receiver.ids == [f"event-{number}" for number in range(50)]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 " + b"2" * 10_000, b"HTTP/1.1 100 Go on\r\n\r\n" * 999]
)
def test_an_answer_that_trickles_is_not_waited_for(
    answer: bytes, tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    receiver = Receiver()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        with suppress(OSError):
            for byte in answer:
                handler.wfile.write(bytes((byte,)))
                time.sleep(0.02)

    receiver.server.RequestHandlerClass.do_POST = trickle  # type: ignore[attr-defined]
    with running(receiver), new(receiver.url, tmp_path, timeout_s=0.2) as webhook:
        webhook.event(new_event())
        wait_until(lambda: "does not answer" in (webhook.status().fault or ""))
        assert webhook.status().waiting == 1


def test_a_receiver_that_is_away_is_a_fault_without_the_token(
    tmp_path: Path, new_event: Any, wait_until: Await, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver()
    receiver.server.server_close()
    with new(receiver.url, tmp_path) as webhook:
        webhook.event(new_event())
        wait_until(lambda: webhook.status().fault)
    assert "hunter2" not in caplog.text + repr(webhook.status()) + repr(webhook._settings)


def test_odd_ids_fit_into_a_header(tmp_path: Path, new_event: Any, wait_until: Await) -> None:
    with running(Receiver()) as receiver, new(receiver.url, tmp_path) as webhook:
        webhook.event(new_event("a\r\nX-Evil: 1\n<b>ü"))
        wait_until(lambda: webhook.status().sent == 1)
    assert "X-Evil" not in receiver.posts[0][0]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/path",
        "ftp://a/",
        "file:///etc/passwd",
        "https://",
        "http://a:b/",
        "http://[/",
        "https://a/b c",
        "https://a/\x7f",
        "https://a/ü",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    assert "address" in (why_no_address(url) or "")


def test_a_user_in_the_address_is_refused_and_not_shown() -> None:
    why = why_no_address("https://me:hunter2@host/")
    assert why is not None and "user" in why and "hunter2" not in why
    assert why_no_address("https://host:8443/hook?token=hunter2") is None


def test_a_certificate_that_is_not_trusted_is_a_fault(
    tmp_path: Path, new_event: Any, wait_until: Await, certificate: tuple[Path, Path]
) -> None:
    receiver = Receiver()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    receiver.server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with running(receiver), new(receiver.url.replace("http", "https"), tmp_path) as webhook:
        webhook.event(new_event())
        wait_until(lambda: "certificate" in (webhook.status().fault or ""))
    assert not receiver.posts


def test_a_message_that_the_disk_has_damaged_holds_no_other_up(
    tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with Spool(tmp_path / "spool", most_mb=1.0) as spool:
        spool.append([b'{"id": "event-'])
    with running(Receiver()) as receiver, new(receiver.url, tmp_path) as webhook:
        webhook.event(new_event(2))
        wait_until(lambda: webhook.status().sent == 1)
        assert webhook.status().dropped == 1
    assert receiver.ids == ["event-2"]
