"""A bundle that is signed is told from one by another key, one without, and one that changed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ffn_edge.bundle.bundle import MANIFEST, WEIGHTS, Bundle
from ffn_edge.bundle.signature import SIGNATURE, PublicKey, new_key, sign
from ffn_edge.cli import cli
from ffn_edge.errors import BundleError, FfnEdgeError
from ffn_edge.export.bundle_files import add_int8


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; the public one ends in .pub."""
    new_key(tmp_path / "edge.key")
    return tmp_path / "edge.key"


@pytest.fixture
def signed(bundle_copy: Path, key: Path) -> Path:
    """A folder with a bundle that is signed with `key`."""
    sign(Bundle.load(bundle_copy), key)
    return bundle_copy


def public(key: Path) -> PublicKey:
    return PublicKey.read(key.with_suffix(".pub"))


def test_a_signed_bundle_is_loaded(signed: Path, key: Path) -> None:
    bundle = Bundle.load(signed, public(key))

    assert bundle == Bundle.load(signed)
    fields = json.loads((signed / SIGNATURE).read_text())
    assert fields["algorithm"] == "ed25519" and fields["key"] == public(key).id


def test_a_private_key_is_its_owners_alone_and_no_key_is_written_over(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    # The second has the first's public key, the third is its own.
    for path in (key, key.with_suffix(""), key.with_name("both.pub")):
        with pytest.raises(FfnEdgeError, match="taken"):
            new_key(path)
    assert key.read_bytes() == before


def test_a_bundle_without_a_signature_is_refused(bundle_copy: Path, key: Path) -> None:
    with pytest.raises(BundleError, match="is not signed") as caught:
        Bundle.load(bundle_copy, public(key))

    assert "ffn-edge sign" in caught.value.hint


def test_a_bundle_by_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "other.key")

    with pytest.raises(BundleError, match="by the key"):
        Bundle.load(signed, public(tmp_path / "other.key"))


def test_the_name_of_a_key_is_no_proof(signed: Path, key: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "other.key")
    sign(Bundle.load(signed), tmp_path / "other.key")
    fields = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps(fields | {"key": public(key).id}))

    with pytest.raises(BundleError, match="changed"):
        Bundle.load(signed, public(key))


def test_every_byte_of_the_manifest_is_signed(signed: Path, key: Path) -> None:
    (signed / MANIFEST).write_bytes((signed / MANIFEST).read_bytes() + b" ")  # the same JSON
    assert Bundle.load(signed)

    with pytest.raises(BundleError, match="changed"):
        Bundle.load(signed, public(key))


def test_every_file_that_is_loaded_is_in_the_manifest(
    causal_int8: Bundle, key: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(causal_int8.path, tmp_path / "causal"))
    sign(Bundle.load(folder), key)
    files = [file for file in folder.iterdir() if file.name not in (MANIFEST, SIGNATURE)]
    assert {file.name for file in files} == causal_int8.manifest.files.keys()
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{file.name} was altered"):
            Bundle.load(folder, public(key))
        file.write_bytes(content)


def test_links_lead_to_what_was_signed_or_are_refused(
    signed: Path, key: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (MANIFEST, SIGNATURE, WEIGHTS, "graph_2.onnx"):
        (signed / name).rename(outside / name)
        (signed / name).symlink_to(outside / name)
    bundle = Bundle.load(signed, public(key))

    shutil.copy(signed / "graph_4.onnx", outside / "other.onnx")
    (signed / "graph_2.onnx").unlink()
    (signed / "graph_2.onnx").symlink_to(outside / "other.onnx")
    with pytest.raises(BundleError, match="altered while in use"):
        bundle.read_graph(2)
    with pytest.raises(BundleError, match=r"graph_2\.onnx"):
        Bundle.load(signed, public(key))


def damaged(**changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text()[:-10]),
        replaced_by_a_pipe,
        damaged(schema_version=2),
        damaged(algorithm="none"),
        damaged(algorithm="rsa"),
        damaged(signature=""),
        damaged(signature=None),
        damaged(signature="§"),
        damaged(signature="AAA"),
        damaged(signature=base64.b64encode(bytes(64)).decode()),
        damaged(key=None),
        damaged(key="x\x1b[2J"),
    ],
)
def test_a_damaged_signature_is_refused(
    damage: Callable[[Path], None], signed: Path, key: Path
) -> None:
    damage(signed / SIGNATURE)

    with pytest.raises(BundleError, match=r"signature|manifest\.sig"):
        Bundle.load(signed, public(key))


@pytest.mark.parametrize(
    ("content", "noun"),
    [(b"", "PEM"), (b"-----BEGIN PUBLIC KEY-----\nAAAA\n", "PEM"), (b"x" * 100_000, "bytes")],
)
def test_what_is_no_key_is_refused(content: bytes, noun: str, tmp_path: Path) -> None:
    (tmp_path / "edge.pub").write_bytes(content)

    with pytest.raises(FfnEdgeError, match=noun):
        PublicKey.read(tmp_path / "edge.pub")


def test_the_wrong_half_of_a_pair_is_refused(exported: Bundle, key: Path) -> None:
    with pytest.raises(FfnEdgeError, match="is a private key") as caught:
        PublicKey.read(key)
    assert "edge.pub" in caught.value.hint
    with pytest.raises(FfnEdgeError, match="is a public key"):
        sign(exported, key.with_suffix(".pub"))


def test_a_bundle_that_changed_since_it_was_loaded_is_not_signed(
    bundle_copy: Path, key: Path
) -> None:
    bundle = Bundle.load(bundle_copy)
    (bundle_copy / MANIFEST).write_bytes((bundle_copy / MANIFEST).read_bytes() + b" ")

    with pytest.raises(BundleError, match="changed"):
        sign(bundle, key)
    assert not (bundle_copy / SIGNATURE).exists()


def test_a_bundle_that_is_quantised_loses_its_signature(
    exported_int8: Bundle, key: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(exported_int8.path, tmp_path / "bundle"))
    bundle = Bundle.load(folder)
    sign(bundle, key)

    add_int8(bundle, bundle.manifest.quantized)

    assert "sign" in caplog.text
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.load(folder, public(key))


def test_the_commands_make_keys_sign_and_refuse(bundle_copy: Path, tmp_path: Path) -> None:
    def call(*words: object) -> int:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        if isinstance(result.exception, FfnEdgeError):
            return 1
        return result.exit_code

    key = tmp_path / "mine.key"
    required = ["run", bundle_copy, "--source", tmp_path / "absent.mp4", "--require-signature"]
    assert call("sign", "--new-key", key) == 0
    assert call("sign") == call("sign", bundle_copy) == call("sign", bundle_copy, "--new-key", key)
    for command in ("run", "build", "profile", "verify"):
        words = ["--source", "absent.mp4"] if command == "run" else []
        result = CliRunner().invoke(
            cli,
            [command, str(bundle_copy), *words, "--require-signature", f"{tmp_path}/mine.pub"],
        )
        assert isinstance(result.exception, BundleError), command
        assert "not signed" in str(result.exception)
    assert call("sign", bundle_copy, "--key", key) == 0
    result = CliRunner().invoke(cli, [*map(str, required), f"{tmp_path}/mine.pub"])
    assert "absent.mp4" in str(result.exception)  # past the signature


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs OpenSSL")
def test_openssl_verifies_a_signature_and_its_keys_sign(bundle_copy: Path, tmp_path: Path) -> None:
    def openssl(*words: object) -> str:
        command = ["openssl", *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    key, pub = tmp_path / "theirs.key", tmp_path / "theirs.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", pub)
    sign(Bundle.load(bundle_copy), key)
    assert Bundle.load(bundle_copy, PublicKey.read(pub))

    raw = tmp_path / "raw"
    signature = json.loads((bundle_copy / SIGNATURE).read_text())["signature"]
    raw.write_bytes(base64.b64decode(signature))
    words = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", pub, "-sigfile", raw)
    assert "Success" in openssl(*words, "-in", bundle_copy / MANIFEST)
    openssl("genpkey", "-algorithm", "x25519", "-out", tmp_path / "x.key")
    with pytest.raises(FfnEdgeError, match="ed25519"):
        sign(Bundle.load(bundle_copy), tmp_path / "x.key")


def test_without_the_library_it_is_said_what_installs_it(signed: Path, key: Path) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from ffn_edge.bundle.signature import PublicKey\n"
        f"PublicKey.read({str(key.with_suffix('.pub'))!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "ffn-edge[serve]" in done.stderr
