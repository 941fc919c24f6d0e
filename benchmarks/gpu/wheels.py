"""Install what was carried along, PyCUDA and TensorRT-RTX, into a folder for the other parts.

Read from $FFN_EDGE_WHEELS: wheels, wheels in parts (`NAME.whl.part-aa` and so on), and PyCUDA's
source archive, which is compiled where there is no wheel. Written to $FFN_EDGE_SITE.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.report import Report, run_part

_BUILD = Path(__file__).with_name("build_pycuda.py")


def main(report: Report) -> None:
    """Install wheel by wheel; compile PyCUDA if it is still missing."""
    if report.dry_run:
        report.row("carried wheels", None, "a dry run takes what is installed")
        return
    carried, site = Path(os.environ["FFN_EDGE_WHEELS"]), Path(os.environ["FFN_EDGE_SITE"])
    with tempfile.TemporaryDirectory() as temporary:
        wheels = [*carried.glob("*.whl"), *joined(carried, Path(temporary))]
        for wheel in sorted(wheels):
            command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
            command += ["--target", str(site), str(wheel)]
            report.run(wheel.name, _running(command))
    archives = sorted(carried.glob("pycuda-*.tar.gz"))
    if (site / "pycuda").is_dir() or importlib.util.find_spec("pycuda"):
        report.row("PyCUDA", True, "installed")
    elif archives:
        arguments = [str(_BUILD), str(archives[-1]), str(site)]
        report.run(f"{archives[-1].name}, compiled", _running(arguments))
    else:
        report.row("PyCUDA", False, f"neither a wheel nor a source archive in {carried}")


def joined(carried: Path, folder: Path) -> list[Path]:
    """Put the wheels together that lie in parts; return their paths in `folder`."""
    found = []
    for first in carried.glob("*.whl.part-aa"):
        path = folder / first.name.removesuffix(".part-aa")
        with open(path, "wb") as whole:
            for part in sorted(carried.glob(f"{path.name}.part-*")):
                with open(part, "rb") as opened:
                    shutil.copyfileobj(opened, whole)
        found.append(path)
    return found


def _running(arguments: list[str]) -> Callable[[], str]:
    """Return what runs Python with these arguments, and says how long it took."""

    def run() -> str:
        begin = time.monotonic()
        subprocess.run([sys.executable, *arguments], check=True)
        return f"{time.monotonic() - begin:.0f} s"

    return run


if __name__ == "__main__":
    run_part("what was carried along", main)
