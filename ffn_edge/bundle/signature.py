"""Who made a bundle: an ed25519 signature over the bytes of its manifest, beside it.

    manifest.sig   {"schema_version": 1, "algorithm": "ed25519", "key": "…", "signature": "…"}

The manifest has the sha256 of every file that is loaded, so the signature holds for all of them. It
says who, and not when: an older bundle by the same key is signed as well. What a device measures
itself (profile, calibration, TensorRT's plans) is not in the manifest, and not signed.

Keys are PEM files, as OpenSSL writes them: PKCS 8, and SubjectPublicKeyInfo.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ffn_edge.bundle.bundle import MANIFEST, Bundle
from ffn_edge.errors import BundleError, FfnEdgeError, reason_of
from ffn_edge.files.atomic import write_text, written
from ffn_edge.files.regular_file import MOST_TEXT_BYTES, read_bytes
from ffn_edge.files.schema import Format

SIGNATURE = "manifest.sig"
_MOST_KEY_BYTES = 1 << 14
_SIGN = "sign it where it was exported, `ffn-edge sign BUNDLE --key edge.key`, and copy it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """What `manifest.sig` holds: `key` is the `PublicKey.id`, `signature` is base64 of 64 bytes."""

    schema_version: int = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key: str
    signature: str


_FORMAT = Format(
    cls=_Signature,
    kind="a bundle's signature",
    hint=_SIGN,
    hint_for_others="update ffn-edge on this machine, or sign it with this release.",
    error=BundleError,
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that tells whose a bundle is.

        key = PublicKey.read("edge.pub")
        bundle = Bundle.load("bundle", signed_by=key)

    Attributes:
        path: of its file.
        id: the first 16 digits of the sha256 of its DER, to tell keys apart in messages.
    """

    path: Path
    id: str
    _key: Any

    @classmethod
    def read(cls, path: str | Path) -> PublicKey:
        """Read a public key.

        Raises:
            FfnEdgeError: the file cannot be read or holds no such key, or `cryptography` is not
                installed.
        """
        key = _read_key(Path(path), private=False)
        return cls(Path(path), _id(key), key)

    def check(self, folder: Path, manifest: bytes) -> None:
        """Raise a BundleError unless `manifest`, read from `folder`, is signed by this key."""
        found = _FORMAT.read(folder / SIGNATURE, f"the bundle in {folder} is not signed")
        if found.key != self.id:
            raise BundleError(
                f"the bundle in {folder} is signed by the key {found.key:.16}, not by {self.id}, "
                f"which is {self.path}",
                "sign it with that key's other half; or require the signature of its own.",
            )
        _, _, exceptions = _cryptography()
        try:
            self._key.verify(base64.b64decode(found.signature, validate=True), manifest)
        except (ValueError, exceptions.InvalidSignature) as error:
            raise BundleError(
                f"the bundle in {folder}, or its signature, was changed after it was signed", _SIGN
            ) from error


def sign(bundle: Bundle, key_path: str | Path) -> str:
    """Sign a bundle: write its `manifest.sig`, and return the id of the key.

    Args:
        bundle: as it was loaded.
        key_path: a private key.

    Raises:
        BundleError: it changed since it was loaded.
        FfnEdgeError: the key cannot be read or is none, the folder cannot be written, or
            `cryptography` is not installed.
    """
    key = _read_key(Path(key_path), private=True)
    content = read_bytes(bundle.path / MANIFEST, MOST_TEXT_BYTES)
    if hashlib.sha256(content).hexdigest() != bundle.identity:
        raise BundleError(f"the bundle in {bundle.path} changed meanwhile", "sign it again.")
    signature = base64.b64encode(key.sign(content)).decode()
    made = _Signature(key=_id(key.public_key()), signature=signature)
    write_text(bundle.path / SIGNATURE, json.dumps(dataclasses.asdict(made), indent=1) + "\n")
    return made.key


def new_key(path: str | Path) -> Path:
    """Make a pair of keys: the private one at `path`, for its owner alone to read.

    Returns:
        where the public one is: the same name, ending in .pub.

    Raises:
        FfnEdgeError: one of the two files is there already, or cannot be written.
    """
    private, public = Path(path), Path(path).with_suffix(".pub")
    for file in (private, public):
        if os.path.lexists(file) or private == public:
            raise FfnEdgeError(
                f"{file} is taken, and no key is written over",
                "name another file, such as edge.key.",
            )
    serialization, ed25519, _ = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    known = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with written(private):
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secret)
    write_text(public, known.decode())
    return public


def _read_key(path: Path, *, private: bool) -> Any:
    serialization, ed25519, exceptions = _cryptography()
    wanted = "a private key" if private else "a public key"
    hint = "name the file that `ffn-edge sign --new-key` wrote: " + (
        "edge.key." if private else "edge.pub; the private key stays where bundles are signed."
    )
    try:
        content = read_bytes(path, _MOST_KEY_BYTES)
    except OSError as error:
        message = f"{path} cannot be read as {wanted}: {reason_of(error)}"
        raise FfnEdgeError(message, hint) from error
    is_private = b"PRIVATE KEY-----" in content
    if is_private != private and b"KEY-----" in content:
        other = "private" if is_private else "public"
        raise FfnEdgeError(f"{path} is a {other} key, and {wanted} is needed", hint)
    try:
        if private:
            key = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        raise FfnEdgeError(f"{path} is not {wanted} without a password, in PEM", hint) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey):
        raise FfnEdgeError(f"{path} is a key of another kind than ed25519", hint)
    return key


def _id(key: Any) -> str:
    serialization, _, _ = _cryptography()
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()[:16]


def _cryptography() -> tuple[Any, Any, Any]:
    """Return what is used of it: its modules serialization, ed25519 and exceptions."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise FfnEdgeError(
            f"signatures need cryptography, which cannot be imported ({error})",
            'pip install "ffn-edge[serve]"',
        ) from error
    return serialization, ed25519, exceptions
