"""JSON texts that say which version of their schema they follow."""

from __future__ import annotations

import json
from typing import Any

from ffn_edge.errors import FfnEdgeError


def read_versioned(
    text: str,
    versions: tuple[int, ...],
    *,
    where: str,
    kind: str,
    hint: str,
    hint_for_others: str = "",
    error: type[FfnEdgeError] = FfnEdgeError,
) -> dict[str, Any]:
    """Return the object in a JSON text, if it follows a version that is known.

    Args:
        text: to read.
        versions: those that its "schema_version" may be.
        where: it was found.
        kind: what it should be, such as "a profile".
        hint: what to do where it is none.
        hint_for_others: what to do where it follows another version; empty is the same.
        error: what to raise.

    Raises:
        FfnEdgeError: or `error`: it is no JSON object with a schema version, or another version.
    """
    try:
        raw = json.loads(text)
        found = raw["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as failure:
        raise error(f"{where} is not {kind}", hint) from failure
    if found not in versions:
        raise error(
            f"{where} has schema version {found!r}; "
            f"this release reads {' and '.join(map(str, versions))}",
            hint_for_others or hint,
        )
    fields: dict[str, Any] = raw
    return fields
