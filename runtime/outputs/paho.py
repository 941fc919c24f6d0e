"""paho-mqtt: one connection to a broker. The only file that imports it."""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ffn_edge.errors import FfnEdgeError, OutputError, reason_of

_CONNECT_S = 10.0  # for each: the connection, TLS's handshake, and the broker's answer
# A broker that is stopped for a while, and then goes on, answers what it was sent before: sent
# again it would be there twice.
_ANSWER_S = 20.0
_KEEPALIVE_S = 20


@functools.cache
def paho() -> ModuleType:
    """Import paho-mqtt's client.

    Raises:
        FfnEdgeError: it is not installed.
    """
    try:
        import paho.mqtt.client as client
    except ImportError as error:
        raise FfnEdgeError(
            f"MQTT needs paho-mqtt, which cannot be imported here ({error})",
            'pip install "ffn-edge[serve]"',
        ) from error
    return client


class Connection:
    """One connection, never opened again: what it did not deliver is nobody's business here."""

    def __init__(self, client_id: str, will: tuple[str, str]) -> None:
        """Prepare; the broker publishes `will`, a topic and a text, once the connection is lost."""
        client: Any = paho()
        self._client = client.Client(
            client.CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False
        )
        self._client.connect_timeout = _CONNECT_S
        self._client.will_set(*will, qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._changed = threading.Condition()  # guards what follows
        self._answer: Any = None  # to the request to connect
        self._lost: str | None = None
        self._arrived: set[int] = set()

    def open(
        self,
        host: str,
        port: int,
        *,
        user: str | None,
        password: str | None,
        context: ssl.SSLContext | None,
    ) -> None:
        """Connect.

        Raises:
            OutputError: nobody is there, or does not answer, or does not let us in.
        """
        where = f"the broker {host}:{port}"
        if user is not None:
            self._client.username_pw_set(user, password)
        if context is not None:
            self._client.tls_set_context(context)
        try:
            self._client.connect(host, port, keepalive=_KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            raise OutputError(
                f"{where} shows a certificate that is not trusted: {error.verify_message}",
                "set ca_file to the certificate of its authority, and host to the name in it.",
            ) from error
        except OSError as error:
            raise OutputError(
                f"{where} cannot be reached: {reason_of(error)}",
                "check host, port and tls, and that the broker runs.",
            ) from error
        self._client.loop_start()
        self._wait(lambda: self._answer is not None, _CONNECT_S, where)
        if self._answer.is_failure:
            raise OutputError(
                f"{where} refuses the connection: {self._answer}", "check user and password."
            )

    def publish(self, topic: str, body: bytes | str, *, qos: int = 1, retain: bool = False) -> int:
        """Leave a message to the connection's thread; return its number."""
        return int(self._client.publish(topic, body, qos, retain).mid)

    def deliver(
        self, topic: str, body: bytes | str, *, retain: bool = False, timeout_s: float = _ANSWER_S
    ) -> None:
        """Publish with quality of service 1, and wait until the broker has it.

        Raises:
            OutputError: the connection is lost, or the broker does not answer.
        """
        self._arrived.clear()  # numbers come again after 65,535 messages
        number = self.publish(topic, body, retain=retain)
        self._wait(lambda: number in self._arrived, timeout_s, "the broker")

    def check(self) -> None:
        """Raise an OutputError if the connection is lost."""
        if self._lost is not None:
            raise OutputError(f"the connection to the broker is lost: {self._lost}")

    def close(self) -> None:
        """Leave; the will is not published."""
        self._client.disconnect()
        self._client.loop_stop()

    def _wait(self, condition: Callable[[], bool], timeout_s: float, where: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._lost is not None, timeout_s)
            if condition():
                return
            self.check()
        raise OutputError(f"{where} does not answer", "check that it is a broker, and is not hung.")

    def _on_connect(self, _: object, __: object, ___: object, answer: Any, ____: object) -> None:
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def _on_disconnect(self, _: object, __: object, ___: object, reason: Any, ____: object) -> None:
        with self._changed:
            # All that is known where the system says that it ended.
            self._lost = "it was closed" if str(reason) == "Unspecified error" else str(reason)
            self._changed.notify_all()

    def _on_publish(self, _: object, __: object, number: int, ___: object, ____: object) -> None:
        with self._changed:
            self._arrived.add(number)
            self._changed.notify_all()
