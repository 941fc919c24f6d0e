"""The errors that a user can mend. The command line prints message and hint, and exits with 1."""

from __future__ import annotations

import re

_MOST_CHARACTERS = 2000
# Escape sequences and the like, and what changes the direction of a text.
_ACTING = re.compile(r"[\0-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text for people to read: without user and password of an address, and in UTF-8.

    The address may be one that was taken for a file, and then has one slash ("rtsp:/me:secret@a").
    A file's name may be of bytes that are no UTF-8, or hold what a terminal would act on. What is
    too long to be read is cut.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = re.sub(r"(:/{1,2}).*@", r"\1...@", text)
    text = _ACTING.sub(lambda found: repr(found[0])[1:-1], text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


class FfnEdgeError(Exception):
    """What happened, what was expected, and in `hint` what to do about it.

        try:
            ffn_edge.Bundle.load("no bundle")
        except ffn_edge.FfnEdgeError as error:
            print(error.message, error.hint)

    Neither shows user and password of an address, wherever the text came from.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(message).replace("\n", r"\n")  # a name may have one
        self.hint = printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[FfnEdgeError], tuple[str, str]]:
        # A data-loader worker sends its error to the main process by pickle: keep the hint.
        return type(self), (self.message, self.hint)


class WriteError(FfnEdgeError, OSError):
    """A file or a folder that cannot be written. It is an OSError, too, for who can go on."""


def reason_of(error: Exception) -> str:
    """Return what an error of the system, or of a library, says: without number and file."""
    return getattr(error, "strerror", None) or str(error)


class FrameCountError(FfnEdgeError):
    """A set of frame counts, or one frame count, that cannot be used."""


class DataError(FfnEdgeError):
    """A list file, a label or a data set that cannot be used."""


class VideoError(FfnEdgeError):
    """A video, a frame folder or a camera that cannot be read or written."""


class RecipeError(FfnEdgeError):
    """A training recipe with a value that cannot be used."""


class CheckpointError(FfnEdgeError):
    """A checkpoint that is missing, damaged or of another network."""


class NetworkError(FfnEdgeError):
    """An architecture that is unknown or cannot be made frame-flexible."""


class ExportError(FfnEdgeError):
    """A network that cannot be folded or written as a graph."""


class BundleError(FfnEdgeError):
    """A bundle that is missing, damaged, or of another version."""


class EngineError(FfnEdgeError):
    """An inference engine that cannot be opened or used on this machine."""


class UnknownWeightsError(EngineError):
    """An engine that wants weights whose names nobody knows."""


class OutOfMemoryError(EngineError):
    """The device, or its host, has too little memory left."""


class OutputError(FfnEdgeError):
    """An output that cannot be opened, or whose other end is away."""


class SensorError(FfnEdgeError):
    """A sensor of power that is missing, closed to this user, or does not answer."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 inference", "2 inferences"; `plural` where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
