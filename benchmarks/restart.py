"""How soon the service is back after it was killed or hung, under systemd and the unit's own rules.

python -m benchmarks.restart serve.toml        # as root, on a machine with systemd installed

It need not be booted by systemd: a manager is started in namespaces of its own, with the unit of
deploy/, which runs `ffn-edge serve` of this Python as the user who calls.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import describe_machine

_UNIT = Path(__file__).parents[1] / "deploy/ffn-edge.service"
_NAME = "ffn-edge.service"
_INSIDE = "FFN_EDGE_RESTART_INSIDE"
_KILLS = 5
_MOST_S = 300
# A cgroup hierarchy and a /run of its own: systemd wants both, and nobody else should see them.
# What stands in place of hidden files is made by PID 1, where that is systemd.
_ENTER = """
mount --make-rprivate /
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0 /run/systemd/inaccessible/dir
touch /run/systemd/inaccessible/reg /run/systemd/inaccessible/sock
mkfifo /run/systemd/inaccessible/fifo
mknod /run/systemd/inaccessible/chr c 0 0
mknod /run/systemd/inaccessible/blk b 0 0
here=/sys/fs/cgroup/ffn-edge-restart
mkdir -p $here
echo $$ > $here/cgroup.procs
code=0
"$@" || code=$?
echo $$ > /sys/fs/cgroup/cgroup.procs
find $here -depth -type d -exec rmdir {} +
exit $code
"""


def unit_for(config: Path, log: Path) -> str:
    """Return the unit of deploy/ with this Python, and without what only PID 1 does."""
    text = _UNIT.read_text()
    command = f"ExecStart={sys.executable} -m ffn_edge serve {config.absolute()}"
    text = re.sub(r"^ExecStart=.*$", command, text, flags=re.M)
    text = re.sub(
        r"^WorkingDirectory=.*$", f"WorkingDirectory={_UNIT.parents[1]}", text, flags=re.M
    )
    text = re.sub(r"^(User|StateDirectory|CacheDirectory|Environment|After|Wants)=.*\n", "", text,
                  flags=re.M)  # fmt: skip
    text = text.replace("ProtectSystem=strict", "ProtectSystem=full")
    return text.replace(
        "[Install]", f"StandardOutput=append:{log}\nStandardError=inherit\n\n[Install]"
    )


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(
        ["systemctl", "--user", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (Path(os.environ["XDG_CONFIG_HOME"]) / "log").read_text()[-2000:]
        raise SystemExit(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}\n{said}")
    return done.stdout


def _state() -> dict[str, str]:
    shown = _systemctl("show", "-p", "MainPID,ActiveState,NRestarts,Type", _NAME)
    return dict(line.split("=", 1) for line in shown.split())


def _wait(what: str, is_so: Callable[[dict[str, str]], bool]) -> float:
    """Wait until the unit is in some state; return the seconds."""
    start = time.monotonic()
    while not is_so(_state()):
        if time.monotonic() - start > _MOST_S:
            raise SystemExit(f"{what}: not within {_MOST_S} s; {_state()}")
        time.sleep(0.02)
    return time.monotonic() - start


def _back_after(number: signal.Signals) -> float:
    """Send a signal to the service; return the seconds until another process says READY=1."""
    before = _state()["MainPID"]
    os.kill(int(before), number)
    return _wait(
        f"back after {number.name}",
        lambda now: now["ActiveState"] == "active" and now["MainPID"] not in ("0", before),
    )


def _measure(config: Path, watchdog: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="ffn-edge-restart-") as folder:
        units = Path(folder) / "systemd/user"
        units.mkdir(parents=True)
        (units / _NAME).write_text(unit_for(config, Path(folder) / "log"))
        (units / "nothing.target").write_text("[Unit]\nDescription=nothing\n")
        os.environ.update(XDG_RUNTIME_DIR="/run/user/0", XDG_CONFIG_HOME=folder)
        with (Path(folder) / "log").open("a") as log:
            manager = subprocess.Popen(
                ["/lib/systemd/systemd", "--user", "--unit=nothing.target"],
                env={**os.environ, "SYSTEMD_LOG_TARGET": "console"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                while not Path("/run/user/0/systemd/private").exists():
                    time.sleep(0.05)
                start = time.monotonic()
                _systemctl("start", _NAME)
                print(f"start, until READY=1: {time.monotonic() - start:.2f} s")
                times = [_back_after(signal.SIGKILL) for _ in range(_KILLS)]
                shown = ", ".join(f"{seconds:.2f}" for seconds in times)
                print(f"kill -9, {_KILLS} times: back after {shown} s")
                print(f"median {statistics.median(times):.2f} s, worst {max(times):.2f} s")
                if watchdog:
                    print(f"SIGSTOP: back after {_back_after(signal.SIGSTOP):.1f} s")
                start = time.monotonic()
                _systemctl("stop", _NAME)
                print(f"stop: {time.monotonic() - start:.2f} s")
            finally:
                manager.terminate()
                manager.wait()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--watchdog", action="store_true", help="also hang the service, once")
    options = parser.parse_args()
    if _INSIDE not in os.environ:
        command = [sys.executable, "-m", "benchmarks.restart", *sys.argv[1:]]
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "-m", "sh", "-ec", _ENTER, "sh", *command])
    print(describe_machine())
    _measure(options.config, options.watchdog)


if __name__ == "__main__":
    main()
