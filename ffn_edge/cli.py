"""The command line: a click group that imports each command only when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys

import click

import ffn_edge
from ffn_edge.errors import FfnEdgeError, printable


def say(message: str) -> None:
    """Report progress on stderr: stdout is for results."""
    click.echo(printable(message), err=True)


class _ToStderr(logging.Handler):
    """Prints what the library tells of its work, one line a record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it; what fails there fails here, as a stderr that is closed does."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        say(prefix + record.getMessage().replace("\n", r"\n"))


_TO_STDERR = _ToStderr()

# name -> (the extras it needs, one line of help); the command stands in commands/NAME.py. The line
# stands here, so that `ffn-edge --help` imports neither torch nor onnx; tests/test_cli.py holds it
# against the command.
_COMMANDS = {
    "data": ("video", "Look at videos, and make lists of them to train on."),
    "train": ("train", "Train a Frame Flexible Network on videos."),
    "evaluate": ("train", "Measure accuracy at any frame count."),
    "compare": ("train", "Train methods under one recipe and compare them."),
    "deviation": ("train", "Show how activations and output move with the frame count."),
    "import": ("train", "Read a published checkpoint."),
    "adapt": ("train", "Add a frame count to a trained network, or take its statistics anew."),
    "export": ("export", "Fold a checkpoint into a bundle."),
    "verify": ("export", "Compare PyTorch, graph, composition and engine."),
    "quantize": ("cpu,video", "Add INT8 to a bundle, from clips of what it will see."),
    "sign": ("serve", "Sign a bundle, so that a device knows whose it is."),
    "build": ("jetson", "Build TensorRT engines, on the device."),
    "doctor": ("cpu", "Report what this machine can do."),
    "power": ("nvml", "Show what power can be measured here."),
    "profile": ("cpu", "Measure each engine's latency and power here."),
    "calibrate": ("cpu,video", "Learn from labelled clips how sure each answer is."),
    "simulate": ("", "Replay a recorded run under other limits."),
    "run": ("cpu,video", "Recognise actions, adapting the frame count."),
    "serve": ("cpu,video,serve", "Watch cameras as a service, from one file of settings."),
    "demo": ("train,export,demo", "Show it all on rendered clips, with a report."),
}


class _LazyGroup(click.Group):
    """A group that knows its commands by name and loads one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = "import_" if cmd_name == "import" else cmd_name  # a word of Python's
        command = getattr(importlib.import_module(f"ffn_edge.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (*_, line) in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 an error that is explained, 2 wrong usage, 130 interrupted.",
)
@click.version_option(ffn_edge.__version__, prog_name="ffn-edge")
def cli() -> None:
    """Train a video network once, ship one weight file, spend only the frames you can afford.

    \b
    The order of the work:
      ffn-edge train RECIPE -o runs/first        # workstation
      ffn-edge export runs/first/best.pt -o bundle
      ffn-edge verify bundle --checkpoint runs/first/best.pt
      ffn-edge quantize bundle --list val.txt --labels     # if INT8 is wanted
      ffn-edge doctor bundle                     # device
      ffn-edge build bundle                      # with an NVIDIA GPU
      ffn-edge profile bundle
      ffn-edge run bundle --source 0 --latency-ms 80 --power-w 10
    """


def main() -> None:
    """Run the command line; turn the errors that a user can mend into messages."""
    _open_closed_streams()
    logger = logging.getLogger("ffn_edge")
    logger.setLevel(logging.INFO)
    logger.addHandler(_TO_STDERR)
    try:
        # Not click's standalone mode: it would end an interrupted command with 1, like an error.
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FfnEdgeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        command = _COMMANDS.get(next(iter(sys.argv[1:]), ""))
        if command is None or (error.name or "").startswith("ffn_edge"):
            raise
        click.echo(
            f"Error: this command needs {error.name}, which is not installed\n"
            f'Hint: pip install "ffn-edge[{command[0]}]"',
            err=True,
        )
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except MemoryError as error:
        click.echo(
            f"Error: there is too little memory: {error}\nHint: ask for fewer or smaller things.",
            err=True,
        )
        sys.exit(1)
    except BrokenPipeError:
        # Who read our output is gone (`| head`). Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        where = "" if error.filename is None else f"{printable(str(error.filename))}: "
        click.echo(
            f"Error: {where}{error.strerror}\n"
            "Hint: check the path, that you may read and write there, and that the disk has room.",
            err=True,
        )
        sys.exit(1)


def _open_closed_streams() -> None:
    """Open /dev/null as each standard stream that is closed.

    Else Python has None for it, and the next file that is opened gets its number, and what others
    print.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, mode))
