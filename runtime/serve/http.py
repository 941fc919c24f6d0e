"""The page's server: the page, its stream of changes, pictures, health and metrics."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import http.client
import io
import ipaddress
import json
import logging
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl

from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.schema import Between
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.serve.board import WIDTHS, Board, Picture

_log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 32
_MOST_WATCHERS = 12  # a page has two connections; the rest is for scrapers and those who come
_MOST_PAGE_BYTES = 1 << 20
_MOST_HEAD_BYTES = 1 << 17  # of a request; http.server would keep 6 MB of each
_TIMEOUT_S = 10.0  # for a request to arrive, and for an answer to be taken
_CHANGES_S = 0.25  # between two messages to a watcher
_BEAT_S = 2.0  # a watcher hears something at least as often
_BUFFER_BYTES = 1 << 17  # what a slow watcher may be behind
_COOKIE = "ffn_edge"
_COOKIE_S = 30 * 86400

# The redirection is the document's own, not a 303: a browser that follows a 303 from another site's
# link keeps a strict cookie back.
_SIGNED_IN = b"""<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=./">
<title>Signed in</title><a href="./">Signed in: go on</a>"""

_SIGN_IN = b"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>Sign in</title><h1>Sign in</h1>
<form action="./" autocomplete="off"><label>Token of the service
<input name="token" type="password" required></label> <button>Sign in</button></form>
<p>It stands in the [http] table of the service's settings.</p></html>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where the page is served, and to whom.

    Attributes:
        host: the address to listen at; one that others can reach wants a token.
        port: the port; 0 is any that is free.
        token: what others must know; None lets in whoever is on this machine.
        certificate: a PEM file of the certificate and those above it; None is no TLS.
        key: a PEM file of its key; None is in the same file.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Between(0, 65535)] = 8090
    token: Secret | None = None
    certificate: Path | None = None
    key: Path | None = None


class HttpServer:
    """Serves a board: `with HttpServer(settings, board) as server: print(server.url)`.

    Attributes:
        url: of the page, once it is served.
    """

    def __init__(
        self,
        settings: HttpSettings,
        board: Board,
        *,
        health: Callable[[], Sequence[str]] | None = None,
        render: Callable[[], tuple[bytes, str]] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            settings: where, and to whom.
            board: what the page shows.
            health: returns what is not well, in words; None is what `Board.faults` says.
            render: returns the metrics and their content type; None is no metrics.
        """
        self._settings = settings
        self._content = _Content(board, health or board.faults, render, _read_page())
        self.url = ""

    def __enter__(self) -> HttpServer:
        """Listen, and serve in threads.

        Raises:
            FfnEdgeError: the port is in use, the address none of this machine, the certificate or
                the key is wrong, or a token is missing.
        """
        settings = self._settings
        where = f"the page's address {settings.host}, port {settings.port},"
        context = _tls(settings)
        try:
            family, *_, address = socket.getaddrinfo(
                settings.host or None,
                settings.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )[0]
            # What a page on this machine shows, every user of the network would see.
            if settings.token is None and not ipaddress.ip_address(address[0]).is_loopback:
                raise FfnEdgeError(
                    f"the page at {settings.host or 'every address'} can be reached by others, "
                    "and has no token",
                    "set token in [http], as `openssl rand -hex 16` makes one, or host to "
                    "127.0.0.1.",
                )
            token = settings.token and settings.token.reveal()
            self._server = _Server(family, address, self._content, token, context)
        except (OSError, UnicodeError) as error:
            raise FfnEdgeError(
                f"{where} cannot be opened: {reason_of(error)}",
                "set host and port in [http] to an address of this machine and a port that is free "
                "(`ss -ltnp` names who listens).",
            ) from error
        host, port = self._server.server_address[:2]
        host = f"[{host!s}]" if family == socket.AF_INET6 else str(host)
        self.url = f"http{'s' if context else ''}://{host}:{port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every connection."""
        self._server.shutdown()
        self._thread.join()
        self._server.end()


class _Page(NamedTuple):
    """The page, and what may run in it."""

    html: bytes
    zipped: bytes
    policy: str
    digest: str


class _Content(NamedTuple):
    """What is served."""

    board: Board
    health: Callable[[], Sequence[str]]
    render: Callable[[], tuple[bytes, str]] | None
    page: _Page


def _read_page() -> _Page:
    html = read_bytes(Path(__file__).with_name("page.html"), _MOST_PAGE_BYTES)

    def sources(tag: bytes) -> str:
        inside = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.S)
        hashes = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in inside)
        return " ".join(f"'sha256-{each}'" for each in hashes)

    policy = (
        f"default-src 'none'; script-src {sources(b'script')}; style-src {sources(b'style')}; "
        "connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    digest = hashlib.sha256(html).hexdigest()[:16]
    return _Page(html, gzip.compress(html, mtime=0), policy, digest)


def _tls(settings: HttpSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a password would ask for it at the terminal.
        context.load_cert_chain(settings.certificate, settings.key, password=lambda: "")
    except (OSError, ValueError) as error:
        files = " and ".join(map(str, filter(None, (settings.certificate, settings.key))))
        raise FfnEdgeError(
            f"the page's certificate cannot be used ({files}): {reason_of(error)}",
            "name PEM files that this user may read, a key without a password that belongs to the "
            "certificate.",
        ) from error
    return context


class _Server(ThreadingHTTPServer):
    """Accepts connections, as many as there are places, and ends those that dawdle."""

    daemon_threads = True

    def __init__(
        self,
        family: int,
        address: Any,
        content: _Content,
        token: str | None,
        context: ssl.SSLContext | None,
    ) -> None:
        self.address_family = socket.AddressFamily(family)
        self.content = content
        self.token = token
        self.context = context
        self.closing = threading.Event()
        self.watchers = threading.BoundedSemaphore(_MOST_WATCHERS)
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._until_s: dict[socket.socket, float] = {}  # when each is ended
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind; without asking a name server for this machine's name, as http.server does."""
        socketserver.TCPServer.server_bind(self)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """Let a connection live for so long."""
        self._until_s[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """End what had its time: a client that sends a byte now and then holds a place, too."""
        self._end_those_until(time.monotonic())

    def end(self) -> None:
        """Close everything, and wait for the threads, though not for ever."""
        self.closing.set()
        self._end_those_until(float("inf"))
        until_s = time.monotonic() + 5
        for _ in range(_MOST_CONNECTIONS):
            self._places.acquire(timeout=max(0.0, until_s - time.monotonic()))
        self.server_close()

    def _end_those_until(self, now: float) -> None:
        for connection, until_s in tuple(self._until_s.items()):
            if until_s <= now:
                with suppress(OSError):
                    # Not SSLSocket's own, which another thread's read does not survive.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in its thread: a handshake takes its time, too."""
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        request.settimeout(_TIMEOUT_S)
        if self.context is not None:
            request = self.context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        try:
            self.allow(request, _TIMEOUT_S)
            if isinstance(request, ssl.SSLSocket):
                request.do_handshake()
            _Handler(request, client_address, self)
        finally:
            self._until_s.pop(request, None)
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of what is wrong here, and not of a client that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.error("a request to the page failed", exc_info=True)


class _Reader(io.BufferedReader):
    """Reads the lines of requests, and of each only so many bytes."""

    left = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.left -= len(line)
        if self.left < 0:
            raise http.client.LineTooLong("request")
        return line


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "ffn-edge"
    sys_version = ""
    timeout = _TIMEOUT_S
    disable_nagle_algorithm = True
    rbufsize = 0  # _Reader has a buffer
    rfile: Any

    def log_message(self, *_: object) -> None:
        """Say nothing: an address may hold the token."""

    def setup(self) -> None:
        """Make ready to read and write."""
        super().setup()
        self.rfile = _Reader(self.rfile)

    def handle_one_request(self) -> None:
        """Read a request in time, and answer it."""
        self.rfile.left = _MOST_HEAD_BYTES
        self.server.allow(self.connection, _TIMEOUT_S)
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer."""
        self.server.allow(self.connection, float("inf"))
        # A body would be taken for the next request.
        if self.headers["Content-Length"] or self.headers["Transfer-Encoding"]:
            self.close_connection = True
        path, _, query = self.path.partition("?")
        try:
            fields = dict(parse_qsl(query, max_num_fields=64))
        except ValueError:
            return self._send(400)
        if not self._is_for_us():
            text = "This address is served by its own name alone, or with a token.\n"
            return self._send(403, text.encode())
        content = self.server.content
        known = self._is_known()
        if path == "/healthz":
            reasons = list(content.health())
            found = {"ok": not reasons} | ({"reasons": reasons} if known else {})
            return self._send(503 if reasons else 200, _json(found), "application/json")
        if path == "/" and self.server.token and "token" in fields:
            return self._sign_in(fields["token"])
        if not known:
            self.close_connection = True
            return self._send(401, _SIGN_IN, "text/html", {"WWW-Authenticate": "Bearer"})
        if path == "/":
            return self._send_page(content.page)
        if path == "/metrics" and content.render is not None:
            return self._send(200, *content.render())
        if path == "/stream":
            return self._send_changes()
        if path == "/pictures":
            return self._send_pictures(fields)
        if camera := re.fullmatch(r"/camera/(\d{1,4})\.jpg", path):
            return self._send_picture(int(camera[1]))
        return self._send(404)

    def _is_for_us(self) -> bool:
        """Whether no other site made the browser ask: by its own name, or from its own page."""
        mode, site = self.headers["Sec-Fetch-Mode"], self.headers["Sec-Fetch-Site"]
        if mode != "navigate" and site in ("cross-site", "same-site"):
            return False
        # A name of a foreign site that leads to this machine is answered with that site's rights.
        # With a token it is of no use: the browser has no cookie for it.
        return bool(self.server.token) or _is_loopback(self.headers["Host"] or "")

    def _is_known(self) -> bool:
        token = self.server.token
        if not token:
            return True
        given = self.headers["Authorization"] or ""
        if given.startswith("Bearer "):
            return _is_same(given.removeprefix("Bearer ").strip(), token)
        # Not http.cookies, which reads none where one is odd: it may be of another port here.
        cookie = re.search(rf"(?:^|; ?){_COOKIE}=(\w+)", self.headers["Cookie"] or "")
        return cookie is not None and _is_same(cookie[1], _cookie_of(token))

    def _sign_in(self, given: str) -> None:
        token = self.server.token
        if not token or not _is_same(given, token):
            return self._send(401, _SIGN_IN, "text/html")
        secure = "; Secure" if self.server.context else ""
        cookie = (
            f"{_COOKIE}={_cookie_of(token)}; HttpOnly; SameSite=Strict; Path=/; "
            f"Max-Age={_COOKIE_S}{secure}"
        )
        return self._send(200, _SIGNED_IN, "text/html", {"Set-Cookie": cookie})

    def _send_page(self, page: _Page) -> None:
        headers = {"Content-Security-Policy": page.policy, "Vary": "Accept-Encoding"}
        if "gzip" in (self.headers["Accept-Encoding"] or ""):
            headers["Content-Encoding"] = "gzip"
        body = page.zipped if "Content-Encoding" in headers else page.html
        self._send(200, body, "text/html", headers)

    def _send_changes(self) -> None:
        """Send all that is now, and then what changes, until the watcher goes or dawdles."""
        server = self.server
        if not server.watchers.acquire(blocking=False):
            return self._send(503, b"Too many watch.\n", headers={"Retry-After": "10"})
        try:
            self.close_connection = True
            self._begin(200, "text/event-stream", {})
            board = server.content.board
            changes = board.snapshot() | {"page": server.content.page.digest}
            kind, sent_s = "snapshot", 0.0
            while True:
                now = time.monotonic()
                if len(changes) > 2 or now - sent_s >= _BEAT_S:
                    self.wfile.write(b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(changes)))
                    sent_s = now
                if server.closing.wait(_CHANGES_S):
                    return None
                kind, changes = "changes", board.changes(changes["revision"])
        finally:
            server.watchers.release()

    def _send_pictures(self, fields: dict[str, str]) -> None:
        """Send the newer ones of some cameras: for each three numbers of 32 bits, and a JPEG.

        The page asks for the next when it has these: on a slow link pictures become fewer, and not
        older.
        """
        width = WIDTHS[1] if fields.pop("small", "") else WIDTHS[0]
        try:
            seen = {int(index): int(number) for index, number in fields.items()}
        except ValueError:
            return self._send(400)
        pictures = self.server.content.board.pictures(seen, width)
        self._send(200, b"".join(map(_framed, pictures)), "application/octet-stream")

    def _send_picture(self, index: int) -> None:
        pictures = self.server.content.board.pictures({index: 0}, wait_s=2.0)
        if pictures:
            return self._send(200, pictures[0].jpeg, "image/jpeg")
        return self._send(404, b"There is no picture of such a camera now.\n")

    def _send(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "text/plain",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._begin(status, kind, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def _begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        kind += "; charset=utf-8" if kind in ("text/plain", "text/html") else ""
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        if "Content-Security-Policy" not in headers:
            policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'"
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()

    def end_headers(self) -> None:
        """End the head of every answer, those to bad requests as well."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _framed(picture: Picture) -> bytes:
    numbers = (picture.camera, picture.number, len(picture.jpeg))
    return b"".join(number.to_bytes(4, "big") for number in numbers) + picture.jpeg


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine to itself."""
    name = re.sub(r":\d*$", "", host).strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _cookie_of(token: str) -> str:
    """What a browser keeps of a token: of use here, and only as long as the token is."""
    return hmac.new(token.encode(), b"ffn-edge page", "sha256").hexdigest()
