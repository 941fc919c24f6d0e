"""`ffn-edge serve`: parse, call the library, print."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.commands.option_types import UserPath
from ffn_edge.errors import ConfigError, FfnEdgeError
from ffn_edge.runtime.camera_settings import CameraSettings
from ffn_edge.runtime.serve.config import Config, Tables, load_config, state_folder
from ffn_edge.runtime.serve.logs import logs_for_programs
from ffn_edge.runtime.stream.sources import open_source
from ffn_edge.terminal import Terminal

_log = logging.getLogger(__name__)


@click.command(short_help="Watch cameras as a service, from one file of settings.")
@click.argument("config", type=UserPath(path_type=Path))
@click.option("--check", is_flag=True, help="Print what was read, without secrets, and end.")
@click.option(
    "--require-signature",
    "public_key",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Run only bundles that were signed with this public key's private one.",
)
def serve(config: Path, check: bool, public_key: Path | None) -> None:
    """Watch cameras as a service, from one file of settings.

    CONFIG is a TOML file; docs/serve.md has all its keys. It is checked before anything starts,
    and read again on SIGHUP: limits, events and cameras change while the others go on. SIGTERM
    and Ctrl-C end the service. Where stderr is no terminal, logs are a line of JSON each.

    \b
    Examples:
      ffn-edge serve serve.toml --check
      ffn-edge serve serve.toml
      ffn-edge serve serve.toml --require-signature edge.pub

    \b
    The least that a file holds:
      bundle = "bundle"
      [[camera]]
      name = "door"
      source = "rtsp://camera/1"
    """
    if check:
        loaded = _load(config, public_key)
        state_folder(loaded)
        terminal = Terminal()
        for name, value in _entries(loaded):
            terminal.say(f"{name} = {value}")
        return
    with logs_for_programs() as handler:
        try:
            loaded = _load(config, public_key)
            if handler is not None:
                handler.hide(loaded.secrets())
            from ffn_edge.runtime.serve import service

            service.serve(loaded, public_key=public_key, logs=handler)
        except FfnEdgeError as error:
            if handler is None:
                raise
            _log.error("%s", error)
            # The unit starts again what failed, but for a mistake that waits for its user.
            sys.exit(2 if isinstance(error, ConfigError) else 1)


def _load(path: Path, public_key: Path | None) -> Config:
    """Return a configuration that fits its bundle, which is signed where that is required."""
    config = load_config(path)
    signed_by = None if public_key is None else PublicKey.read(public_key)
    config.check(Bundle.load(config.bundle, signed_by).manifest)
    return config


def _entries(config: Config) -> Iterator[tuple[str, object]]:
    """Return every key with its value, defaults too; tables and keys that are not set are left out.

    A secret shows where it comes from, and an address no password.
    """
    for table in dataclasses.fields(Tables):
        yield from _entries_of(table.name, getattr(config, table.name))


def _entries_of(name: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, tuple) and value and isinstance(value[0], CameraSettings):
        for index, camera in enumerate(value):
            yield from _entries_of(f"{name}[{index}]", camera)
    elif isinstance(value, CameraSettings):
        for key, each in _fields(value):
            if key == "source" and value.source.is_literal:
                streams = open_source(value.source.reveal()).streams
                each = ", ".join(stream.name for stream in streams)
            yield f"{name}.{key}", each
    elif dataclasses.is_dataclass(value):
        for key, each in _fields(value):
            yield f"{name}.{key}", each
    elif value is not None:
        yield name, value


def _fields(table: Any) -> Iterator[tuple[str, object]]:
    for each in dataclasses.fields(table):
        if (value := getattr(table, each.name)) is not None:
            yield each.name, value
