"""The page's server: who gets what, who gets nothing, and who is not waited for."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.page import answer
from ffn_edge.errors import FfnEdgeError
from ffn_edge.files import schema
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.serve import http as module
from ffn_edge.runtime.serve.board import Board
from ffn_edge.runtime.serve.http import HttpServer, HttpSettings

Show = Callable[..., None]
Serve = Callable[..., HttpServer]
TOKEN = "a token of some length"


def port_of(server: HttpServer) -> int:
    return int(server.url.rstrip("/").rsplit(":", 1)[1])


def get(
    server: HttpServer, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    with closing(
        http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=10)
    ) as connection:
        connection.request("GET", path, headers=headers or {})
        found = connection.getresponse()
        return found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()


@pytest.fixture
def board() -> Board:
    board = Board(["door"])
    board.result(answer("door"))
    return board


def messages(
    server: HttpServer, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """The kind and the content of each message of the stream."""
    with closing(
        http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=10)
    ) as connection:
        connection.request("GET", "/stream", headers=headers or {})
        found = connection.getresponse()
        assert found.status == 200
        assert found.getheader("Content-Type") == "text/event-stream"
        while kind := found.readline().decode().strip():
            yield kind.removeprefix("event: "), json.loads(found.readline().removeprefix(b"data: "))
            found.readline()


def test_the_page_runs_what_it_holds_and_asks_nobody_else(serve: Serve, board: Board) -> None:
    status, headers, body = get(serve(board), "/")

    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(rb"""(src|href)=["']?(https?:)?//""", body)
    assert get(serve(board), "/", {"Accept-Encoding": "gzip"})[2] == gzip.compress(body, mtime=0)


def test_health_tells_the_reasons(serve: Serve, board: Board) -> None:
    reasons: list[str] = []
    server = serve(board, health=lambda: reasons)

    status, _, body = get(server, "/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True, "reasons": []})

    reasons.append("door is lost")
    status, _, body = get(server, "/healthz")
    assert (status, json.loads(body)) == (503, {"ok": False, "reasons": ["door is lost"]})


def test_metrics_are_what_was_rendered(serve: Serve, board: Board) -> None:
    server = serve(board, render=lambda: (b"up 1\n", "text/plain; version=0.0.4"))

    status, headers, body = get(server, "/metrics")

    assert (status, headers["content-type"], body) == (200, "text/plain; version=0.0.4", b"up 1\n")
    assert get(serve(board), "/metrics")[0] == 404


def test_the_stream_begins_with_all_and_goes_on_with_changes(serve: Serve, board: Board) -> None:
    stream = messages(serve(board))

    kind, everything = next(stream)
    assert kind == "snapshot"
    assert everything["cameras"][0]["class"] == "wave"

    board.result(answer("door", "fall"))
    kind, changes = next(stream)
    assert kind == "changes"
    assert changes["cameras"][0]["class"] == "fall"


def test_a_watcher_hears_something_where_nothing_changes(
    serve: Serve, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.3)
    stream = messages(serve(board))

    next(stream)
    kind, beat = next(stream)

    assert (kind, beat.keys()) == ("changes", {"revision", "now"})


def test_pictures_come_framed_and_one_by_its_address(
    serve: Serve, board: Board, show: Show
) -> None:
    server = serve(board)
    board.pictures({0: 0}, wait_s=0.0)
    show(board, "door")

    status, headers, body = get(server, "/pictures?0=0&9=0&small=1")
    index, number, size = (int.from_bytes(body[at : at + 4], "big") for at in (0, 4, 8))
    assert (status, index, number, size) == (200, 0, 1, len(body) - 12)
    assert body[12:14] == b"\xff\xd8"

    status, headers, body = get(server, "/camera/0.jpg")
    assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/nothing", 404),
        ("/../../etc/passwd", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("//etc/passwd", 404),
        ("/page.html", 404),
        ("/camera/1.jpg", 404),
        ("/camera/99999.jpg", 404),
        ("/camera/-1.jpg", 404),
        ("/pictures?a=b", 400),
        ("/pictures?" + "&".join(f"{n}=0" for n in range(100)), 400),
        ("http://elsewhere.example/", 403),
    ],
)
def test_what_is_not_there_is_not_found(
    path: str, expected: int, serve: Serve, board: Board
) -> None:
    assert get(serve(board), path)[0] == expected


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        b"DELETE /camera/0.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_other_requests_are_refused(request_text: bytes, serve: Serve, board: Board) -> None:
    server = serve(board)
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as client:
        client.sendall(request_text)
        said = b"".join(iter(lambda: client.recv(4096), b""))
        assert re.search(rb"(HTTP/1\.[01] |Error code: )[45]\d\d", said)
    assert get(server, "/healthz")[0] == 200


def test_a_request_whose_head_has_no_end_is_refused(
    serve: Serve, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HEAD_BYTES", 1000)
    server = serve(board)
    for size, expected in ((300, 200), (600, 431)):
        headers = {"A": "b" * size, "B": "c" * size}
        assert get(server, "/healthz", headers)[0] == expected


def test_a_body_is_not_taken_for_the_next_request(serve: Serve, board: Board) -> None:
    hidden = b"GET /camera/0.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port_of(serve(board))), timeout=10) as client:
        client.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(hidden)
        )
        client.sendall(hidden)
        said = b""
        try:
            while part := client.recv(4096):
                said += part
        except ConnectionResetError:  # what it did not read
            pass
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "localhost:8090"}, 200),
        ({"Host": "[::1]:8090"}, 200),
        ({"Host": "elsewhere.example"}, 403),
        ({"Host": "127.0.0.1.elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
    ],
)
def test_another_site_cannot_ask_through_a_browser(
    headers: dict[str, str], expected: int, serve: Serve, board: Board
) -> None:
    assert get(serve(board), "/", headers)[0] == expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer é"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"ffn_edge={TOKEN}"},
        {"Cookie": "ffn_edge=wrong; ="},
    ],
)
def test_without_the_token_there_is_nothing(
    headers: dict[str, str], serve: Serve, board: Board
) -> None:
    server = serve(board, token=TOKEN, render=lambda: (b"", "text/plain"))

    for path in ("/", "/stream", "/pictures?0=0", "/camera/0.jpg", "/metrics", "/nothing"):
        status, _, body = get(server, path, headers)
        assert status == 401
        assert b"door" not in body


def test_health_without_the_token_names_nothing(serve: Serve, board: Board) -> None:
    server = serve(board, token=TOKEN, health=lambda: ["door is lost"])

    status, _, body = get(server, "/healthz")

    assert (status, json.loads(body)) == (503, {"ok": False})
    known = get(server, "/healthz", {"Authorization": f"Bearer {TOKEN}"})
    assert json.loads(known[2])["reasons"] == ["door is lost"]


def test_a_link_with_the_token_signs_in(serve: Serve, board: Board) -> None:
    server = serve(board, token=TOKEN)

    assert get(server, "/?token=wrong")[0] == 401
    status, headers, body = get(server, "/?token=" + TOKEN.replace(" ", "%20"))

    cookie = headers["set-cookie"]
    assert status == 200
    assert b"url=./" in body
    assert TOKEN not in cookie
    assert all(each in cookie for each in ("HttpOnly", "SameSite=Strict"))
    for others in ("%s", 'ui={"dark":1}; %s; x=y', "a=b;%s"):
        assert get(server, "/", {"Cookie": others % cookie.partition(";")[0]})[0] == 200
    assert get(server, "/", {"Cookie": f"not_{cookie.partition(';')[0]}"})[0] == 401
    other = serve(board, token="another token")
    assert get(other, "/", {"Cookie": cookie.partition(";")[0]})[0] == 401


def test_the_token_is_in_no_log(
    serve: Serve, board: Board, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    def broken() -> tuple[bytes, str]:
        raise ValueError("broken")

    server = serve(board, token="secret", render=broken)
    get(server, "/?token=secret")
    get(server, "/wrong?token=secret")
    with pytest.raises(http.client.HTTPException):
        get(server, "/metrics", {"Authorization": "Bearer secret"})

    until = time.monotonic() + 10
    while "broken" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    assert "broken" in caplog.text
    assert "secret" not in caplog.text + "".join(capfd.readouterr())
    assert "secret" not in repr(HttpSettings(token=Secret("secret")))


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_who_can_be_reached_wants_a_token(host: str, board: Board) -> None:
    with pytest.raises(FfnEdgeError, match="token"):
        HttpServer(HttpSettings(host=host, port=0), board).__enter__()


def test_a_port_in_use_is_an_error_that_names_it(serve: Serve, board: Board) -> None:
    port = port_of(serve(board))

    with pytest.raises(FfnEdgeError, match=str(port)) as caught:
        serve(board, port=port)

    assert "port" in caught.value.hint


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host.invalid", "a" * 70 + ".invalid"])
def test_an_address_of_another_machine_is_an_error(host: str, board: Board) -> None:
    with pytest.raises(FfnEdgeError, match="address"):
        HttpServer(HttpSettings(host=host, port=0, token=Secret(TOKEN, TOKEN)), board).__enter__()


def test_a_port_out_of_range_is_refused_by_its_type() -> None:
    with pytest.raises(ValueError, match="port"):
        schema.parse(HttpSettings, {"port": 70_000})


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, Path]:
    """A certificate and its key, another's key, a key with a password, and what is none."""
    files = {}
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for name, key, lock in (
        ("key", keys[0], serialization.NoEncryption()),
        ("other", keys[1], serialization.NoEncryption()),
        ("locked", keys[0], serialization.BestAvailableEncryption(b"password")),
    ):
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_bytes(key.private_bytes(pem, form, lock))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(keys[0].public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(keys[0], hashes.SHA256())
    )
    files["certificate"] = tmp_path / "certificate.pem"
    files["certificate"].write_bytes(certificate.public_bytes(pem))
    files["text"] = tmp_path / "text.pem"
    files["text"].write_text("no certificate")
    return files


def test_with_a_certificate_it_is_served_over_tls(
    serve: Serve, board: Board, pem: dict[str, Path]
) -> None:
    server = serve(board, certificate=str(pem["certificate"]), key=str(pem["key"]), token=TOKEN)
    context = ssl.create_default_context(cafile=str(pem["certificate"]))
    # One that does not greet holds up nobody.
    with socket.create_connection(("127.0.0.1", port_of(server))):
        connection = http.client.HTTPSConnection(
            "localhost", port_of(server), timeout=10, context=context
        )
        with closing(connection):
            connection.request("GET", "/?token=" + TOKEN.replace(" ", "+"))
            found = connection.getresponse()
            assert found.status == 200
            assert "Secure" in (found.getheader("Set-Cookie") or "")
    assert server.url.startswith("https://")


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("certificate", "other"),
        ("certificate", "locked"),
        ("certificate", None),
        ("text", "key"),
        ("missing", "key"),
        ("certificate", "missing"),
    ],
)
def test_a_wrong_certificate_or_key_is_an_error(
    certificate: str, key: str | None, board: Board, pem: dict[str, Path]
) -> None:
    pem["missing"] = Path("missing.pem")
    settings = HttpSettings(
        port=0, certificate=pem[certificate], key=None if key is None else pem[key]
    )
    with pytest.raises(FfnEdgeError, match="certificate"):
        HttpServer(settings, board).__enter__()


def test_only_so_many_connect_and_places_come_back(
    serve: Serve, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_CONNECTIONS", 2)
    server = serve(board)
    idle = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(2)]
    time.sleep(0.2)  # until they have their places

    with pytest.raises((http.client.HTTPException, OSError)):
        get(server, "/healthz")

    for each in idle:
        each.close()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert get(server, "/healthz")[0] == 200
            return
        except (http.client.HTTPException, OSError):
            time.sleep(0.05)
    pytest.fail("no place came back")


def test_only_so_many_watch(serve: Serve, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WATCHERS", 1)
    server = serve(board)
    stream = messages(server)
    next(stream)

    assert get(server, "/stream")[0] == 503
    assert get(server, "/healthz")[0] == 200


def test_one_who_sends_a_byte_now_and_then_is_ended(
    serve: Serve, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", port_of(serve(board))), timeout=10) as client:
        ended = threading.Event()

        def drip() -> None:
            try:
                while not ended.wait(0.1):
                    client.sendall(b"G")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(ConnectionResetError):
                assert client.recv(1) == b""
                raise ConnectionResetError
        finally:
            ended.set()
            thread.join()


def test_a_watcher_that_takes_nothing_is_dropped_and_costs_nobody(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.5)
    monkeypatch.setattr(module, "_CHANGES_S", 0.001)
    monkeypatch.setattr(module, "_BUFFER_BYTES", 1 << 12)
    names = [f"camera {number}" for number in range(100)]
    board = Board(names)
    server = serve(board)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        lazy.connect(("127.0.0.1", port_of(server)))
        lazy.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until = time.monotonic() + 20
        watchers = server._server.watchers
        while watchers._value == module._MOST_WATCHERS and time.monotonic() < until:
            time.sleep(0.01)
        while watchers._value < module._MOST_WATCHERS and time.monotonic() < until:
            for name in names:
                board.result(answer(name))
            assert get(server, "/healthz")[0] == 200
        assert watchers._value == module._MOST_WATCHERS


def test_the_end_does_not_wait_for_who_watches(board: Board) -> None:
    with HttpServer(HttpSettings(port=0), board) as server:
        stream = messages(server)
        next(stream)
        before = time.monotonic()
    assert time.monotonic() - before < 4
    port = port_of(server)
    with HttpServer(HttpSettings(port=port), board):  # its port is free again
        pass
    assert not [each for each in threading.enumerate() if "process_request" in each.name]


def test_the_hashes_are_of_what_stands_in_the_page(serve: Serve, board: Board) -> None:
    import hashlib

    _, headers, body = get(serve(board), "/")
    inside = re.findall(rb"<(script|style)>(.*?)</\1>", body, re.S)
    assert len(inside) == 2
    for _, text in inside:
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert digest in headers["content-security-policy"]
