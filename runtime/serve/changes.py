"""What differs between two configurations, and what of it can change while the service runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ffn_edge.runtime.serve.config import Config, Tables

_WHILE_RUNNING = ("limits", "events", "camera")
_NOT_WHILE_RUNNING = ("events.gate",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a reload does.

    Attributes:
        limits: whether they differ, ...
        events: ... and what an event is.
        added: names of cameras that are new, ...
        removed: ... are gone, ...
        changed: ... or have another address, window or weight.
        restart: keys of what differs and stays as it is until the service starts again, such as
            "http.port".
    """

    limits: bool
    events: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    restart: tuple[str, ...]

    @property
    def cameras(self) -> bool:
        """Whether any camera differs."""
        return bool(self.added or self.removed or self.changed)

    def in_words(self) -> str:
        """Say all of it in a line."""
        words = [name for name in ("limits", "events") if getattr(self, name)]
        for done in ("added", "removed", "changed"):
            words += [f"camera {name} {done}" for name in getattr(self, done)]
        if self.restart:
            words.append(f"not before a restart: {', '.join(self.restart)}")
        return "; ".join(words) or "nothing has changed"


def changes_between(old: Config, new: Config) -> Changes:
    """Return what differs. Where a file of a secret says something else, that differs, too."""
    before = {camera.name: camera for camera in old.camera}
    after = {camera.name: camera for camera in new.camera}
    keys = _different_keys(old, new)
    later = tuple(
        key
        for key in keys
        if key in _NOT_WHILE_RUNNING or key.partition(".")[0] not in _WHILE_RUNNING
    )
    return Changes(
        limits=old.limits != new.limits,
        events=any(key.startswith("events.") and key not in later for key in keys),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and before[name] != after[name]),
        restart=later,
    )


def _different_keys(old: Config, new: Config) -> list[str]:
    """Return the keys that differ; of a table that only one of them has, the table's."""
    keys = []
    for each in dataclasses.fields(Tables):
        one, other = getattr(old, each.name), getattr(new, each.name)
        if one == other:
            continue
        if dataclasses.is_dataclass(one) and dataclasses.is_dataclass(other):
            keys += [
                f"{each.name}.{part.name}"
                for part in dataclasses.fields(one)
                if getattr(one, part.name) != getattr(other, part.name)
            ]
        else:
            keys.append(each.name)
    return keys
