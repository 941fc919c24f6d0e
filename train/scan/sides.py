"""Whether swapping left and right changes what a class is called."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OTHER = {
    **{"left": "right", "links": "rechts", "gauche": "droite", "izquierda": "derecha"},
    **{"sinistra": "destra", "clockwise": "counterclockwise"},
}
_OTHER |= {second: first for first, second in _OTHER.items()}
# "leftwards", "righthanded" and "linksabbiegen" name a side; "rightly" and "leftover" do not.
_SIDE = re.compile(
    r"\b(?:(left|right)(?=wards?\b|hand|side|\b)|(links|rechts)"
    r"|(gauche|droite|izquierda|derecha|sinistra|destra|counterclockwise|clockwise)\b)"
)


def mirror_pairs(classes: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
    """Return the classes that become each other when left and right are swapped.

    Args:
        classes: their names.

    Returns:
        Pairs; none where no name speaks of a side. None where a name does, and there is no class
        that its mirror image would belong to.
    """
    by_words = {_words(name): name for name in classes}
    pairs: dict[str, str] = {}
    for words, name in by_words.items():
        swapped = _SIDE.sub(lambda found: _OTHER[found[0]], words)
        if swapped == words:
            continue
        if swapped not in by_words:
            return None
        pairs[name] = by_words[swapped]
    return tuple((a, b) for a, b in pairs.items() if classes.index(a) < classes.index(b))


def sided(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose names speak of a side."""
    return tuple(name for name in classes if _SIDE.search(_words(name)))


def _words(name: str) -> str:
    """Return a name as its words: "SwipeLeft_2" as "swipe left 2"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|[^\w]+|_+", " ", name).lower()
    return re.sub(r"\b(counter|anti) ?clockwise", "counterclockwise", apart).strip()
