"""A webhook: each event as a POST of JSON to an address of the user's."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import ffn_edge
from ffn_edge.errors import OutputError, reason_of
from ffn_edge.files.schema import Between
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.outputs.sender import RefusedError, Sender

# Of the answers that say that the request was wrong, those that say "later".
_LATER = (408, 425, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where to.

    Attributes:
        url: of HTTP or HTTPS. Shown nowhere but for scheme and host: some hold a token.
        secret: that the receiver knows; None is no signature.
        timeout_s: for the connection, and for the answer, however slowly that comes.
    """

    url: Secret
    secret: Secret | None = None
    timeout_s: Annotated[float, Between(0.001, 3600)] = 10.0


def why_no_address(url: str) -> str | None:
    """Say why a URL is none that events can be posted to; None if it is one."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    # Others would be told of by http.client, with the address.
    if not fits or not re.fullmatch(r"[!-~]+", url):
        return "is no address of a webhook: begin it with https://HOST/"
    if parts.username is not None:
        return "holds a user: have the receiver check the signature instead"
    return None


class Webhook(Sender):
    """Posts each event when it begins and when it ends. See `Sender`.

    The header Idempotency-Key is the same of each repeat, and of no other message. With a secret,
    X-Ffn-Edge-Signature is "sha256=" and the HMAC-SHA256 of the body, in hexadecimal.

    An answer of 2xx is an arrival; of 4xx, but for "later", the event is dropped and counted;
    after any other, or none, it is sent again. A redirection is not followed: what the secret
    signs is for one receiver.
    """

    def __init__(self, settings: WebhookSettings, spool: Path, **options: Any) -> None:
        """Prepare.

        Args:
            settings: where to.
            spool: the file that keeps events until they arrive.
            **options: of `Sender`.
        """
        super().__init__("webhook", spool, **options)
        self._settings = settings
        self._secret = None if settings.secret is None else settings.secret.reveal()
        self._url = settings.url.reveal()
        parts = urlsplit(self._url)
        port = f":{parts.port}" if parts.port else ""
        self._where = f"{parts.scheme}://{parts.hostname}{port}"
        self._opener = build_opener(
            _Http(), _Https(context=ssl.create_default_context()), _NoRedirection()
        )

    def _send(self, message: dict[str, Any], body: bytes) -> None:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ffn-edge/{ffn_edge.__version__}",
            "Idempotency-Key": quote(f"{message['id']}:{message['phase']}", safe=":"),
        }
        if self._secret is not None:
            digest = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Ffn-Edge-Signature"] = f"sha256={digest}"
        request = Request(self._url, body, headers, method="POST")
        try:
            self._opener.open(request, timeout=self._settings.timeout_s).close()
        except HTTPError as error:
            error.close()
            self._raise(error.code)
        except URLError as error:
            reason = error.reason
            raise OutputError(
                f"{self._where} cannot be reached: "
                + (reason_of(reason) if isinstance(reason, Exception) else str(reason))
            ) from None  # whose text may hold the address
        except TimeoutError:
            raise OutputError(
                f"{self._where} does not answer within {self._settings.timeout_s:g} s"
            ) from None

    def _raise(self, code: int) -> None:
        if 300 <= code < 400:
            raise OutputError(
                f"{self._where} answers with a redirection ({code})", "set url to where it leads."
            )
        if 400 <= code < 500 and code not in _LATER:
            raise RefusedError(f"{self._where} refuses it with {code}")
        raise OutputError(f"{self._where} answers with {code}")


class _Connection(HTTPConnection):
    """Waits so long for an answer, and not so long for each byte of it."""

    def getresponse(self) -> HTTPResponse:
        assert self.timeout is not None  # _send gives one
        until_s = time.monotonic() + self.timeout
        timer = threading.Timer(self.timeout, _hang_up, [self.sock])
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        except (OSError, HTTPException) as error:
            if time.monotonic() >= until_s:
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Http(HTTPHandler):
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(HTTPSHandler):
    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_TlsConnection, request, context=self._context)  # type: ignore[attr-defined]


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        # Not SSLSocket's own, which another thread's read does not survive.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Leave the answer as it is."""
