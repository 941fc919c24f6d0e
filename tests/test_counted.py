"""Numbers with their nouns."""

from __future__ import annotations

from ffn_edge.errors import counted


def test_one_is_singular() -> None:
    assert [counted(n, "inference") for n in (0, 1, 2)] == [
        "0 inferences", "1 inference", "2 inferences"
    ]  # fmt: skip
    assert (counted(1, "switch", "switches"), counted(2, "switch", "switches")) == (
        "1 switch", "2 switches"
    )  # fmt: skip
