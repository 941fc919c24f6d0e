"""The architectures, one file a family."""

from __future__ import annotations

import difflib

from ffn_edge.errors import NetworkError
from ffn_edge.network.families import slowfast, tea, tsm, uniformer
from ffn_edge.network.families.family import Family

_FAMILIES = {
    name: family
    for family in (
        *(tsm.FAMILY, tsm.EDGE_FAMILY, tsm.TINY_FAMILY),
        *(tea.FAMILY, slowfast.FAMILY, uniformer.FAMILY),
    )
    for name in family.architectures
}
ARCHITECTURES = tuple(_FAMILIES)


def family_of(architecture: str) -> Family:
    """Return what builds an architecture.

    Raises:
        NetworkError: it does not exist; the nearest names are in the hint.
    """
    if architecture not in _FAMILIES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=3) or ARCHITECTURES
        raise NetworkError(
            f"there is no architecture {architecture!r}", f"did you mean {' or '.join(near)}?"
        )
    return _FAMILIES[architecture]
