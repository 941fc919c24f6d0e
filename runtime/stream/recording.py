"""Whether what a web server sends is a recording: something with an end, which it states."""

from __future__ import annotations

import http.client
import urllib.request
from urllib.parse import unquote, urlsplit

_ASK_S = 5.0
# What names a stream and is none itself: playlists of HLS, manifests of DASH, and SDP.
_PLAYLISTS = (b"#EXTM3U", b"<", b"v=0")


def is_recording(url: str) -> bool:
    """Return whether what is behind a URL has an end: a length, or parts that can be asked for.

    One request, closed again once its headers are here. A camera states neither, or the length of
    one part of a "multipart" stream.

    Args:
        url: http:// or https://, with user and password or without.

    Raises:
        OSError: there is no answer that says it.
    """
    try:
        with _opener(url).open(_without_user(url), timeout=_ASK_S) as response:
            headers = response.headers
            has_end = "Content-Length" in headers or headers["Accept-Ranges"] == "bytes"
            if not has_end or headers.get_content_maintype() == "multipart":
                return False
            return not response.read(16).lstrip().startswith(_PLAYLISTS)
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
