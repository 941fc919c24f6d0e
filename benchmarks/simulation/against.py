"""The figures of rivals and the oracle, kept in a file: only what changes is simulated again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.simulation.compare import OURS, Results, Sweep
from benchmarks.simulation.interference import TRACES
from benchmarks.simulation.run import RunFigures, Workload
from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.atomic import write_text
from ffn_edge.files.regular_file import read_text
from ffn_edge.runtime.policy import interface
from ffn_edge.runtime.simulate import drive, figures

_MOST_BYTES = 256 << 20
# What the figures follow from, besides the workload itself.
_SOURCES = (
    *sorted(Path(__file__).parent.glob("*.py")),
    *sorted(TRACES.glob("*.gz")),
    *(Path(module.__file__) for module in (interface, drive, figures)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """One workload's.

    Attributes:
        key: of all that the figures follow from.
        figures: by miss rate, policy and seed.
    """

    key: str
    figures: Mapping[str, Mapping[str, Mapping[int, RunFigures]]]


def read_figures(path: Path, sweep: Sweep) -> Results:
    """Return what a file holds of a sweep and is still true; nothing if there is no file.

    Raises:
        FfnEdgeError: it is no such file.
    """
    kept = _read(path)
    found: Results = {}
    for workload in sweep.workloads:
        entry = kept.get(workload.name)
        if entry is not None and entry.key == _key(workload, sweep):
            for miss_rate, by_policy in entry.figures.items():
                for policy, seeds in by_policy.items():
                    found[workload.name, float(miss_rate), policy] = dict(seeds)
    return found


def write_figures(path: Path, sweep: Sweep, results: Results) -> None:
    """Write the figures of all but our policy.

    Raises:
        WriteError: the file cannot be written.
    """
    kept = _read(path)
    for workload in sweep.workloads:
        by_rate = {
            repr(miss_rate): {
                policy: seeds
                for (name, rate, policy), seeds in results.items()
                if (name, rate) == (workload.name, miss_rate) and policy != OURS
            }
            for miss_rate in sweep.miss_rates
        }
        kept[workload.name] = _Kept(key=_key(workload, sweep), figures=by_rate)
    written = {name: asdict(entry) for name, entry in kept.items()}
    write_text(path, json.dumps(written, separators=(",", ":")))


def _read(path: Path) -> dict[str, _Kept]:
    try:
        return schema.parse(dict[str, _Kept], schema.load(read_text(path, _MOST_BYTES)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        raise FfnEdgeError(
            f"{path} does not hold the figures of a comparison: {reason}",
            "name another file, or delete it.",
        ) from error


def _key(workload: Workload, sweep: Sweep) -> str:
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(source.read_bytes())
    said = (workload, sweep.spec, list(sweep.seeds), list(sweep.miss_rates), sweep.keep)
    digest.update(repr(said).encode())
    return digest.hexdigest()
