"""Compile PyCUDA from its source archive for `pycuda.driver` alone, quickly: all cores, -O0.

setuptools compiles the files of an extension one after the other, which takes minutes; here they
go to a pool of threads. CURAND is left out, and libcuda.so need not be there to link against: its
functions are looked up when the module is loaded. Of what PyCUDA requires, `pycuda.driver` imports
only NumPy.

    python benchmarks/gpu/build_pycuda.py pycuda-2026.1.tar.gz FOLDER    # FOLDER/pycuda
"""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import setuptools  # noqa: F401  # brings distutils, which Python 3.12 has no more


def compile_in_parallel(workers: int) -> None:
    """Let distutils start each compilation at once, and wait for all of them before it links."""
    compiler: Any = importlib.import_module("distutils.unixccompiler").UnixCCompiler
    pool = ThreadPoolExecutor(workers)
    started: list[Future[None]] = []
    compile_one, link = compiler._compile, compiler.link

    def submit(self: Any, *arguments: Any) -> None:
        started.append(pool.submit(compile_one, self, *arguments))

    def link_when_done(self: Any, *arguments: Any, **options: Any) -> None:
        while started:
            started.pop().result()
        link(self, *arguments, **options)

    compiler._compile, compiler.link = submit, link_when_done


def main(archive: Path, target: Path) -> None:
    """Unpack the archive in a temporary folder, compile, and copy the package to `target`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        (source,) = folder.glob("pycuda-*")
        subprocess.run(
            ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so", "-xc", "-"],
            input=b"",
            check=True,
        )
        # PyCUDA reads its settings from the home folder; the user's own stays as it is.
        os.environ["HOME"] = temporary
        (folder / ".aksetup-defaults.py").write_text(
            "CUDA_ENABLE_CURAND = False\n"
            "CXXFLAGS = ['-O0', '-g0', '-w']\n"
            # Some linkers leave out a library of which nothing is needed at once.
            f"LDFLAGS = ['-L{temporary}', '-Wl,--no-as-needed', '-lcuda']\n"
        )
        compile_in_parallel(os.cpu_count() or 1)
        os.chdir(source)
        sys.path.insert(0, str(source))  # aksetup_helper lies there
        sys.argv = ["setup.py", "build_ext", "--inplace"]
        runpy.run_path("setup.py", run_name="__main__")
        shutil.copytree(source / "pycuda", target / "pycuda", dirs_exist_ok=True)


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
