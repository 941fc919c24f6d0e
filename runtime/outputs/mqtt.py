"""MQTT: events that arrive, what each camera sees now, and Home Assistant's discovery.

With TOPIC "ffn-edge/HOST" and a camera "door":

    TOPIC/status        "online", or "offline" once the connection is lost; retained
    TOPIC/door/event    each event, when it begins and when it ends; quality of service 1
    TOPIC/door/state    the class now, at most once a second; retained, quality of service 0
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import ffn_edge
from ffn_edge.errors import OutputError, reason_of
from ffn_edge.files.schema import Between
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.paho import Connection, paho
from ffn_edge.runtime.outputs.sender import Sender

_STATE_S = 1.0  # from one state to the next
_DISCOVERY = "homeassistant"  # its prefix, unless one changes it there


def _own_topic() -> str:
    return f"ffn-edge/{topic_part(socket.gethostname())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Which broker, and how.

    Attributes:
        host: of the broker.
        port: of the broker; None is 8883 with TLS and 1883 without.
        user: None is nobody.
        password: of the user.
        tls: whether the connection is encrypted and the broker shows a certificate.
        ca_file: whose certificates are trusted, PEM; None is the system's authorities.
        topic: under which everything is published; of no other device.
        discovery: whether Home Assistant is told of the cameras.
    """

    host: str
    port: Annotated[int, Between(1, 65535)] | None = None
    user: str | None = None
    password: Secret | None = None
    tls: bool = False
    ca_file: Path | None = None
    topic: str = field(default_factory=_own_topic)
    discovery: bool = True


class Mqtt(Sender):
    """Publishes to a broker. See `Sender`."""

    def __init__(
        self,
        settings: MqttSettings,
        spool: Path,
        *,
        cameras: Sequence[str] = (),
        classes: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Prepare.

        Args:
            settings: which broker.
            spool: the file that keeps events until they arrive.
            cameras: of which Home Assistant is told.
            classes: that an event may have.
            **options: of `Sender`.

        Raises:
            FfnEdgeError: paho-mqtt is not installed, or the certificates cannot be read.
        """
        super().__init__("mqtt", spool, **options)
        paho()
        self._settings = settings
        self._context = _context(settings)
        self._classes = list(classes)
        self._status_topic = f"{settings.topic}/status"
        # The broker takes a second connection of this name for the first one come back.
        self._client_id = settings.topic.replace("/", "-")
        self._connection: Connection | None = None
        self._next_state = 0.0
        self._lock = threading.Lock()  # guards what follows
        self._cameras = set(cameras)
        self._unannounced = set(cameras)
        self._latest: dict[str, Result] = {}
        self._fresh: set[str] = set()  # whose state is to be published
        self._going_on: dict[str, dict[str, str]] = {}  # camera: event: class

    def set_cameras(self, cameras: Sequence[str]) -> None:
        """Say which cameras there are now; the broker and Home Assistant forget the others.

        From any thread.
        """
        with self._lock:
            gone = self._cameras - set(cameras)
            self._unannounced |= gone | (set(cameras) - self._cameras)
            self._cameras = set(cameras)
            for camera in gone:
                self._latest.pop(camera, None)
                self._going_on.pop(camera, None)

    def result(self, result: Result) -> None:
        """Take a result: of those that wait, a camera's latest is published."""
        with self._lock:
            self._latest[result.source] = result
            self._fresh.add(result.source)

    def event(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            if event.end_s is None:
                self._going_on.setdefault(event.source, {})[event.id] = event.class_name
            else:
                self._going_on.get(event.source, {}).pop(event.id, None)
            self._fresh.add(event.source)
        super().event(event)

    def _open(self) -> None:
        settings = self._settings
        port = settings.port or (8883 if settings.tls else 1883)
        self._connection = Connection(self._client_id, (self._status_topic, "offline"))
        self._connection.open(
            settings.host,
            port,
            user=settings.user,
            password=self._settings.password and self._settings.password.reveal(),
            context=self._context,
        )
        self._connection.publish(self._status_topic, "online", retain=True)
        with self._lock:  # the broker may have been started anew
            self._unannounced |= self._cameras
            self._fresh |= self._latest.keys()
        self._next_state = 0.0

    def _send(self, message: dict[str, Any], body: bytes) -> None:
        assert self._connection is not None
        self._connection.deliver(self._topic(message["source"], "event"), body)

    def _pulse(self) -> None:
        """Publish the states, and tell Home Assistant of the cameras."""
        connection = self._connection
        assert connection is not None
        connection.check()
        if time.monotonic() < self._next_state:
            return
        self._next_state = time.monotonic() + _STATE_S
        with self._lock:
            states = [
                (self._topic(camera, "state"), self._state(camera))
                for camera in self._fresh & self._latest.keys()
            ]
            self._fresh.clear()
            announced = [(camera, camera in self._cameras) for camera in self._unannounced]
            self._unannounced.clear()
        for topic, state in states:
            connection.publish(topic, json.dumps(state), qos=0, retain=True)
        for camera, is_there in announced:
            if not is_there:
                connection.publish(self._topic(camera, "state"), "", retain=True)
            if self._settings.discovery:
                topic, device = self._discovery(camera)
                connection.publish(topic, json.dumps(device) if is_there else "", retain=True)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(OutputError):
            connection.check()
            connection.deliver(self._status_topic, "offline", retain=True, timeout_s=1.0)
        connection.close()

    def _topic(self, camera: str, what: str) -> str:
        return f"{self._settings.topic}/{topic_part(camera)}/{what}"

    def _state(self, camera: str) -> dict[str, Any]:
        """Return what a camera sees now; the lock is held."""
        result = self._latest[camera]
        best = result.top[0]
        going_on = self._going_on.get(camera)
        return {
            "class": best.class_name,
            "probability": round(best.probability, 4),
            "event": next(reversed(going_on.values())) if going_on else None,
            "frames": result.frames,
            "reason": result.decision.reason,
            "latency_ms": round(result.latency_ms, 3),
            "time_s": round(result.time_s, 3),
        }

    def _discovery(self, camera: str) -> tuple[str, dict[str, Any]]:
        """Return where Home Assistant (2024.11 and later) expects a camera's device, and what."""
        # Names of any letters, of which these are unlike.
        unique = hashlib.sha256(f"{self._settings.topic}\0{camera}".encode()).hexdigest()[:16]
        unique = f"ffn_edge_{unique}"
        state_topic = self._topic(camera, "state")
        version = ffn_edge.__version__
        return f"{_DISCOVERY}/device/{unique}/config", {
            "device": {
                "identifiers": [unique],
                "name": camera,
                "manufacturer": "ffn-edge",
                "sw_version": version,
            },
            "origin": {"name": "ffn-edge", "sw_version": version},
            "availability_topic": self._status_topic,
            "components": {
                "class": {
                    "platform": "sensor",
                    "unique_id": f"{unique}_class",
                    "name": "Class",
                    "state_topic": state_topic,
                    "value_template": "{{ value_json['class'] }}",
                    "json_attributes_topic": state_topic,
                },
                "active": {
                    "platform": "binary_sensor",
                    "unique_id": f"{unique}_active",
                    "name": "Active",
                    "state_topic": state_topic,
                    "value_template": "{{ 'ON' if value_json['event'] else 'OFF' }}",
                },
                "event": {
                    "platform": "event",
                    "unique_id": f"{unique}_event",
                    "name": "Event",
                    "state_topic": self._topic(camera, "event"),
                    "event_types": self._classes,
                    # It fires when an event begins; an empty object is passed over.
                    "value_template": (
                        "{{ dict(value_json, event_type=value_json['class']) | to_json "
                        "if value_json['phase'] == 'begin' else '{}' }}"
                    ),
                },
            },
        }


def topic_part(name: str) -> str:
    """Return a name as one level of a topic: what MQTT reads otherwise as %XX, as in addresses."""
    return re.sub(r"[%/+#$\0-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", name)


def _context(settings: MqttSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # of which ssl.SSLError is one
        raise OutputError(
            f"the certificates in {settings.ca_file} cannot be read: {reason_of(error)}",
            "ca_file is a text file (PEM) with the authority's certificate.",
        ) from error
