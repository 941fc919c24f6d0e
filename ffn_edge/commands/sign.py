"""`ffn-edge sign`: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

from ffn_edge.cli import say
from ffn_edge.commands.option_types import UserPath


@click.command(short_help="Sign a bundle, so that a device knows whose it is.")
@click.argument("bundle", type=UserPath(file_okay=False), required=False)
@click.option("--key", type=UserPath(dir_okay=False), help="The private key to sign with.")
@click.option(
    "--new-key",
    type=UserPath(written=True, dir_okay=False, path_type=Path),
    help="Make a pair of keys: this file, and the same name ending in .pub.",
)
def sign(bundle: str | None, key: str | None, new_key: Path | None) -> None:
    """Sign a bundle, so that a device knows whose it is.

    The signature (ed25519) is BUNDLE/manifest.sig, and holds for every file that the manifest
    names. Whatever changes the manifest, as `export --into` and `quantize` do, asks for a new one.

    \b
    Examples:
      ffn-edge sign --new-key edge.key           # once; edge.pub goes to the devices
      ffn-edge sign bundle --key edge.key
      ffn-edge run bundle --source 0 --require-signature edge.pub
    """
    from ffn_edge.bundle import signature
    from ffn_edge.bundle.bundle import Bundle

    if (bundle is None) != (key is None) or (bundle is None) == (new_key is None):
        raise click.UsageError("sign a BUNDLE with --key, or make a pair of keys with --new-key.")
    if new_key is not None:
        public = signature.new_key(new_key)
        say(f"wrote {new_key}, which signs and is secret, and {public} for the devices")
    elif bundle is not None and key is not None:
        loaded = Bundle.load(bundle)
        by = signature.sign(loaded, key)
        say(f"wrote {loaded.path / signature.SIGNATURE}, by the key {by}")
