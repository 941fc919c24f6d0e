"""Paths and numbers on the command line."""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any

import click

from ffn_edge.device.cpu_threads import VARIABLE
from ffn_edge.files.atomic import check_writable

if TYPE_CHECKING:
    from ffn_edge.bundle.signature import PublicKey


class UserPath(click.Path):
    """A path as a user writes it: "~" is the home folder, also where no shell has expanded it."""

    def __init__(self, *, written: bool = False, **settings: object) -> None:
        """Take what `click.Path` takes.

        Args:
            written: it is a file or a folder that the command will write; one that cannot be is
                refused before any work. Not for what may be a device, such as /dev/null.
            settings: of `click.Path`.
        """
        super().__init__(**settings)  # type: ignore[arg-type]
        self._written = written

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path.

        Raises:
            WriteError: it is to be written, and cannot be.
        """
        path = super().convert(os.path.expanduser(value), param, ctx)
        if self._written:
            check_writable(os.fsdecode(path))
        return path


class Whole(click.IntRange):
    """A whole number that a machine can count to."""

    def __init__(self, least: int = 1, most: int = 1_000_000) -> None:
        super().__init__(least, most)


class Number(click.FloatRange):
    """A number above 0. What is no number is in no range, but click compares the other way."""

    def __init__(self, most: float = 1e9, **settings: bool) -> None:
        super().__init__(0, most, min_open=True, **settings)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value} is no number.", param, ctx)
        return found


class Duration(click.ParamType[float]):
    """A time such as 90s, 30m, 2h or 1h30m; seconds where no unit is written."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it in seconds."""
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", str(value))
        seconds = 0
        if match and len(str(value)) < 20:
            for part, unit in zip(match.groups(), (3600, 60, 1), strict=True):
                seconds += int(part or 0) * unit
        if not seconds:
            self.fail(f"{value!r} is no time such as 30m, 2h or 1h30m.", param, ctx)
        return float(seconds)


def fix_threads(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    """Let PyTorch, which is not imported yet, take this many threads: an option's callback."""
    if value is not None:
        os.environ[VARIABLE] = str(value)
    return value


def _read_public_key(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> PublicKey | None:
    """Read the key whose signature is required: an option's callback."""
    if value is None:
        return None
    from ffn_edge.bundle.signature import PublicKey

    return PublicKey.read(value)


signature_option = click.option(
    "--require-signature",
    "signed_by",
    type=UserPath(dir_okay=False),
    callback=_read_public_key,
    metavar="PUBLIC_KEY",
    help="Refuse a bundle that `ffn-edge sign` has not signed with this key's other half.",
)
threads_option = click.option(
    "--threads",
    type=Whole(1, 1024),
    expose_value=False,
    callback=fix_threads,
    help="CPU threads to compute with.  [default: what is quickest, measured as it goes]",
)
