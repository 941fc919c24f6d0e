"""A real MQTT broker on this machine, to be stopped and started: mosquitto, or else amqtt."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt

_AMQTT = """
import asyncio, logging, sys
from amqtt.broker import Broker
async def main():
    broker = Broker({
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        },
    })
    await broker.start()
    await asyncio.Event().wait()
logging.disable()
asyncio.run(main())
"""


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Broker:
    """A broker that lets anyone in: `with Broker(folder) as broker: ...`.

    Attributes:
        port: that it listens on.
        name: of the program. Only mosquitto keeps sessions when it ends.
    """

    def __init__(self, folder: Path, *, mosquitto: bool = True) -> None:
        """Prepare; `mosquitto` takes that where it is installed, else amqtt."""
        self.port = free_port()
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if mosquitto and program:
            self.name = "mosquitto"
            settings = folder / "mosquitto.conf"
            settings.write_text(
                # Root would become another user, who may not write there.
                f"user {getpass.getuser()}\n"
                f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
                f"persistence true\npersistence_location {folder}/\n"
                "autosave_on_changes true\nautosave_interval 1\nmax_queued_messages 100000\n"
            )
            self._command = [program, "-c", str(settings)]
        else:
            self.name = "amqtt"
            self._command = [sys.executable, "-c", _AMQTT, str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, on the same port each time, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen")

    def stop(self) -> None:
        """End it in order: it writes what it holds."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it at once, as a cut of the power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: the system still takes what it is sent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Listener:
    """Notes what a broker publishes, of a session that outlives the connection.

    Attributes:
        messages: topic, payload and whether it was retained, in the order in which they came.
    """

    def __init__(self, port: int, topic: str = "#") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._port, self._topic = port, topic
        self._is_there = threading.Event()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, "listener", clean_session=False
        )
        self._client.reconnect_delay_set(0.2, 0.2)  # type: ignore[arg-type]  # any number will do
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self._is_there.clear()
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Listener:
        self._client.connect("127.0.0.1", self._port, keepalive=60)
        self._client.loop_start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self) -> None:
        """Wait until it gets messages, again."""
        if not self._is_there.wait(10):
            raise RuntimeError("the broker takes no subscription")

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._topic, qos=1)

    def _on_subscribe(self, *_: Any) -> None:
        self._is_there.set()

    def _on_message(self, client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        self.messages.append((message.topic, message.payload, message.retain))
