"""Whether what a web server sends is a recording: something with an end, which it states."""

from __future__ import annotations

import http.client
import urllib.request
from urllib.parse import unquote, urlsplit

_ASK_S = 5.0
# What names a stream and is none itself: playlists of HLS, manifests of DASH, and SDP.
_PLAYLISTS = (b"#EXTM3U", b"<", b"v=0")


def recording_bytes(url: str) -> int | None:
    """Return how long the recording behind a URL is; None is a stream.

    One request, closed again once its headers are here. A camera states no length, or one for the
    parts of a "multipart" stream alone.

    Args:
        url: http:// or https://, with user and password or without.

    Raises:
        OSError: there is no answer that says it.
    """
    try:
        with _opener(url).open(_without_user(url), timeout=_ASK_S) as response:
            length = response.headers["Content-Length"]
            if response.headers.get_content_maintype() == "multipart" or length is None:
                return None
            start = response.read(16).lstrip()
            return None if start.startswith(_PLAYLISTS) else int(length)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError("no HTTP") from error


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return who answers a host that asks for user and password."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    parts = urlsplit(url)
    if parts.username is not None:
        passwords.add_password(
            None, _without_user(url), unquote(parts.username), unquote(parts.password or "")
        )
    return urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(passwords),
        urllib.request.HTTPDigestAuthHandler(passwords),
    )


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
