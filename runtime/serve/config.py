"""The service's configuration: a TOML file that is checked before anything starts.

    bundle = "bundle"
    [[camera]]
    name = "door"
    source = "rtsp://camera/1"

Whatever is wrong is told by file, line and what is expected, all of it at once. Paths are relative
to the file's folder.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ffn_edge.bundle.bundle import Manifest
from ffn_edge.errors import ConfigError, FfnEdgeError, printable, reason_of
from ffn_edge.files.atomic import check_writable
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.schema import (
    Above0,
    Between,
    NotNegative,
    Problem,
    SchemaError,
    Share,
    parse_strictly,
)
from ffn_edge.files.secret import Secret
from ffn_edge.files.toml import Toml, TomlError, load
from ffn_edge.runtime.camera_settings import CameraSettings
from ffn_edge.runtime.engines.engine import EngineOptions, PrecisionOption
from ffn_edge.runtime.outputs.event_clips import ClipSettings
from ffn_edge.runtime.outputs.mqtt import MqttSettings
from ffn_edge.runtime.outputs.webhook import WebhookSettings, why_no_address
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.serve.http import HttpSettings
from ffn_edge.runtime.stream.camera import is_camera
from ffn_edge.runtime.stream.sources import open_source

_log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20
_HINT = (
    'lines are such as `name = "text"`, `number = 1.5` or `switch = true`, below a `[table]`; each '
    "camera begins with `[[camera]]`. docs/serve.md has all keys."
)

Seconds = Annotated[float, Between(0.001, 3600)]
Levels = dict[str, Share] | Share


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsTable:
    """`[limits]`: what to keep; see `Limits`."""

    latency_ms: Above0 | None = None
    miss_rate: Annotated[float, Between(0.0001, 0.9999)] = 0.05
    power_w: Above0 | None = None

    def limits(self) -> Limits:
        """Return them as the policy takes them."""
        return Limits(latency_ms=self.latency_ms, miss_rate=self.miss_rate, power_w=self.power_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginesTable:
    """`[engines]`: what runs the engines; see `EngineOptions`."""

    backend: Literal["auto", "tensorrt", "rtx", "onnxruntime"] = "auto"
    threads: Annotated[int, Between(1, 1024)] | None = None
    precision: PrecisionOption = "auto"
    stream: bool = False

    def options(self) -> EngineOptions:
        """Return them as the engines take them."""
        return EngineOptions(**dataclasses.asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsTable:
    """`[events]`: when something counts as an event. None is what the calibration says.

    Attributes:
        nothing: the class that means that nothing happens.
        onset: the probability at which an event begins, of all classes or by class.
        offset: and that at which it ends.
        least_s: what is shorter is none.
        merge_s: two of one class that are closer are one.
        refractory_s: for so long after one, there is none of the same class.
        gate: leave out inferences while the picture stands still.
    """

    nothing: str | None = None
    onset: Levels | None = None
    offset: Levels | None = None
    least_s: NotNegative | None = None
    merge_s: NotNegative | None = None
    refractory_s: NotNegative | None = None
    gate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesTable:
    """`[files]`: JSON lines; None is none.

    Attributes:
        events: a line for each event that ended.
        results: a line for each inference.
    """

    events: Path | None = None
    results: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All that a file may hold.

    Attributes:
        bundle: a folder, or a link to one.
        state: where the service keeps events that are to be sent; None is systemd's folder for it,
            or "state" beside the file.
    """

    bundle: Path
    state: Path | None = None
    camera: tuple[CameraSettings, ...] = ()
    limits: LimitsTable = field(default_factory=LimitsTable)
    engines: EnginesTable = field(default_factory=EnginesTable)
    events: EventsTable = field(default_factory=EventsTable)
    http: HttpSettings = field(default_factory=HttpSettings)
    files: FilesTable = field(default_factory=FilesTable)
    mqtt: MqttSettings | None = None
    webhook: WebhookSettings | None = None
    clips: ClipSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Tables):
    """A file that was read: its tables, with absolute paths and secrets that are known.

    Attributes:
        path: of the file.
        toml: where it says what.
    """

    path: Path
    toml: Toml = field(repr=False, compare=False)

    def secrets(self) -> list[Secret]:
        """Return what no log may show. Addresses of cameras are cleaned wherever they are shown."""
        found = [self.http.token]
        if self.mqtt is not None:
            found.append(self.mqtt.password)
        if self.webhook is not None:
            found += [self.webhook.url, self.webhook.secret]
        return [secret for secret in found if secret is not None]

    @property
    def holds_secrets(self) -> bool:
        """Whether a secret stands in the file itself."""
        with_users = [each.source for each in self.camera if "@" in each.source.reveal()]
        return any(secret.is_literal for secret in (*self.secrets(), *with_users))

    def check(self, manifest: Manifest) -> None:
        """Hold it against the bundle that it names.

        Raises:
            ConfigError: a class that the bundle lacks; a stream of a network that knows clips only.
        """
        problems = []
        named = [("events.nothing", self.events.nothing)] if self.events.nothing else []
        for key in ("onset", "offset"):
            by_class = getattr(self.events, key)
            if isinstance(by_class, dict):
                named += [(f"events.{key}.{each}", each) for each in by_class]
        for name, each in named:
            if each not in manifest.classes:
                classes = ", ".join(manifest.classes)
                problems.append(
                    Problem(
                        name, f"{name}: the bundle has no class {each!r:.50}, but {classes:.300}"
                    )
                )
        if self.engines.stream and not manifest.causal:
            name = "engines.stream"
            problems.append(Problem(name, f"{name}: the bundle's network is not causal"))
        _refuse(self.path, self.toml, problems)


def load_config(path: Path) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used; every such thing that
            was found, with its line.
        FfnEdgeError: this Python has no reader of TOML.
    """
    toml = _read(path)
    values, problems = dict(toml.values), []
    if isinstance(values.get("camera"), dict):
        problems.append(Problem("camera", "a camera begins with [[camera]], in two brackets"))
        values["camera"] = [values["camera"]]
    try:
        tables = parse_strictly(Tables, values)
    except SchemaError as error:
        _refuse(path, toml, [*problems, *error.problems])
        raise AssertionError from error
    folder = path.absolute().parent
    tables = _resolved(tables, "", folder, problems)
    cameras = []
    for index, camera in enumerate(tables.camera):
        try:
            camera = _with_address(camera, folder)
        except FfnEdgeError as error:
            name = f"camera[{index}].source"
            problems.append(Problem(name, f"{name}: {error.message}"))
        cameras.append(camera)
    tables = dataclasses.replace(tables, camera=tuple(cameras))
    problems += _problems(tables)
    _refuse(path, toml, problems)
    fields = {each.name: getattr(tables, each.name) for each in dataclasses.fields(tables)}
    config = Config(**fields, path=path.absolute(), toml=toml)
    if os.stat(path).st_mode & stat.S_IROTH and config.holds_secrets:
        _log.warning("everybody on this machine may read %s and its secrets: chmod o-r", path)
    return config


def state_folder(config: Config) -> Path:
    """Return where the service keeps what must outlive it, as the configuration says.

    Or systemd's folder for it, or one beside the configuration.

    Raises:
        FfnEdgeError: it cannot be written to.
    """
    given = os.environ.get("STATE_DIRECTORY")
    folder = config.state or (Path(given) if given else config.path.parent / "state")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "new")
    except OSError as error:
        raise FfnEdgeError(
            f"the service cannot keep its state in {folder}: {reason_of(error)}",
            'name a folder that it may write to: state = "/var/lib/ffn-edge"',
        ) from error
    return folder


def _read(path: Path) -> Toml:
    try:
        content = read_bytes(path, _MOST_BYTES)
        return load(content.decode("utf-8-sig"))
    except OSError as error:
        message = f"{path} cannot be read: {reason_of(error)}"
        raise ConfigError(message, "name a TOML file: ffn-edge serve serve.toml") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: it is no text in UTF-8", _HINT) from None
    except TomlError as error:
        raise ConfigError(f"{path}, line {error.line}: {error}", _HINT) from error


def _refuse(path: Path, toml: Toml, problems: Iterable[Problem]) -> None:
    """Raise what is wrong, in the order of the lines."""
    lines = sorted((toml.line_of(each.name), printable(each.text)) for each in problems)
    if lines:
        texts = "; ".join(f"line {line}: {text}" for line, text in lines)
        raise ConfigError(f"{path}, {texts}", _HINT)


def _resolved(value: Any, name: str, folder: Path, problems: list[Problem]) -> Any:
    """Return a value with its secrets read and its paths absolute."""
    if isinstance(value, Secret):
        try:
            return value.read(folder)
        except FfnEdgeError as error:
            problems.append(Problem(name, f"{name}: {error.message}"))
    elif isinstance(value, Path):
        return folder / os.path.expanduser(value)
    elif isinstance(value, tuple):
        return tuple(
            _resolved(each, f"{name}[{index}]", folder, problems)
            for index, each in enumerate(value)
        )
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        keys = [each.name for each in dataclasses.fields(value)]
        return dataclasses.replace(
            value,
            **{
                key: _resolved(
                    getattr(value, key), f"{name}.{key}" if name else key, folder, problems
                )
                for key in keys
            },
        )
    return value


def _with_address(camera: CameraSettings, folder: Path) -> CameraSettings:
    """Return a camera whose source, if it is a file, has an absolute path.

    Raises:
        FfnEdgeError: it is neither a camera's address nor a video that exists.
    """
    if not camera.source.was_read:  # that is told already
        return camera
    address = camera.source.reveal()
    if not is_camera(address):
        address = str(folder / os.path.expanduser(address))
    try:
        open_source(address)  # opens nothing yet
    except FfnEdgeError:
        if camera.source.is_literal:
            raise
        # Not "from": what is kept elsewhere may be anything, a password too.
        raise ConfigError(f"what {camera.source} holds is no camera, and no video") from None
    return dataclasses.replace(camera, source=camera.source.with_value(address))


def _problems(tables: Tables) -> Iterator[Problem]:
    """Tell what is wrong between values, each of which is right for itself."""
    for name, text in (
        *_wrong_in_cameras(tables.camera),
        *_wrong_in_events(tables.events),
        *_wrong_in_http(tables.http),
        *(() if tables.mqtt is None else _wrong_in_mqtt(tables.mqtt)),
        *(() if tables.webhook is None else _wrong_in_webhook(tables.webhook)),
    ):
        yield Problem(name, f"{name} {text}".strip())


def _wrong_in_cameras(cameras: tuple[CameraSettings, ...]) -> Iterator[tuple[str, str]]:
    if not cameras:
        yield "", "there is no camera: write [[camera]], and below it name and source"
    seen: dict[str, str] = {}
    for index, camera in enumerate(cameras):
        here = f"camera[{index}]"
        if not re.fullmatch(r"\S(.{0,62}\S)?", camera.name):
            yield f"{here}.name", "must have 1 to 64 characters, in one line"
        first = seen.setdefault(camera.name.casefold(), here)
        if first != here:
            yield f"{here}.name", f"is {camera.name!r}, and so is that of {first}"
        if camera.roi is not None:
            left, top, width, height = camera.roi
            if min(width, height) == 0 or max(left + width, top + height) > 1 + 1e-9:
                yield (
                    f"{here}.roi",
                    "must be [x, y, width, height] in shares of the picture, with x + width and "
                    "y + height at most 1",
                )


def _wrong_in_events(events: EventsTable) -> Iterator[tuple[str, str]]:
    onset, offset = events.onset, events.offset
    if isinstance(onset, float) and isinstance(offset, float) and offset > onset:
        yield "events.offset", "is above events.onset: what began would end at once"


def _wrong_in_http(http: HttpSettings) -> Iterator[tuple[str, str]]:
    if http.token is None and not _is_loopback(http.host):
        yield "http.host", f"is {http.host!r:.50}, where others can come from: it needs http.token"
    if http.key is not None and http.certificate is None:
        yield "http.key", "needs http.certificate"
    yield from _not_readable("http.certificate", http.certificate)
    yield from _not_readable("http.key", http.key)


def _wrong_in_mqtt(mqtt: MqttSettings) -> Iterator[tuple[str, str]]:
    if not mqtt.host:
        yield "mqtt.host", "is empty: name the broker"
    if mqtt.password is not None and mqtt.user is None:
        yield "mqtt.password", "needs mqtt.user"
    if not re.fullmatch(r"[^+#/$][^+#/]*(/[^+#/]+)*", mqtt.topic):
        yield "mqtt.topic", "must be a topic such as site/door, without +, # and a $ at its begin"
    if mqtt.ca_file is not None and not mqtt.tls:
        yield "mqtt.ca_file", "needs mqtt.tls = true"
    yield from _not_readable("mqtt.ca_file", mqtt.ca_file)


def _wrong_in_webhook(webhook: WebhookSettings) -> Iterator[tuple[str, str]]:
    if webhook.url.was_read and (why := why_no_address(webhook.url.reveal())):
        yield "webhook.url", why


def _not_readable(name: str, file: Path | None) -> Iterator[tuple[str, str]]:
    if file is not None and not (file.is_file() and os.access(file, os.R_OK)):
        yield name, f"names {file}, which does not exist or may not be read"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
