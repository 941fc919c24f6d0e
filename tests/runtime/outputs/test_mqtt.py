"""MQTT with a real broker, and with servers that are none."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import pytest

from benchmarks.broker import Broker, Listener
from ffn_edge.errors import OutputError
from ffn_edge.files.schema import parse
from ffn_edge.files.secret import Secret
from ffn_edge.runtime.outputs.mqtt import Mqtt, MqttSettings, topic_part
from ffn_edge.runtime.outputs.paho import Connection

ODD = 'the "front"/door+#\n<b>%</b>ü'
QUICK: dict[str, Any] = {"pauses_s": (0.05, 0.1)}

Await = Callable[[Callable[[], object]], None]


def new(port: int, folder: Path, **options: Any) -> Mqtt:
    """An output to a broker on this machine."""
    settings = MqttSettings(host="127.0.0.1", port=port, topic="site/box", discovery=False)
    settings = dataclasses.replace(settings, **options.pop("settings", {}))
    return Mqtt(settings, folder / "spool", **QUICK, **options)


def events_of(listener: Listener) -> list[dict[str, Any]]:
    """What came as events, in that order."""
    return [json.loads(body) for topic, body, _ in listener.messages if topic.endswith("/event")]


def of_topic(listener: Listener, topic: str) -> list[bytes]:
    return [body for found, body, _ in listener.messages if found == topic]


def test_an_event_arrives_when_it_begins_and_when_it_ends(
    broker: Broker, listener: Listener, tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    begin, end = new_event(), new_event(end_s=12.5)
    with new(broker.port, tmp_path) as mqtt:
        mqtt.event(begin)
        mqtt.event(end)
        wait_until(lambda: mqtt.status().sent == 2)
        assert (mqtt.status().waiting, mqtt.status().dropped) == (0, 0)
        assert mqtt.status().fault is None
    wait_until(lambda: len(events_of(listener)) == 2)
    assert events_of(listener) == [
        begin.fields() | {"phase": "begin"},
        end.fields() | {"phase": "end"},
    ]


def test_whether_it_runs_is_kept_at_the_broker(
    broker: Broker, listener: Listener, tmp_path: Path, wait_until: Await
) -> None:
    with new(broker.port, tmp_path):
        wait_until(lambda: of_topic(listener, "site/box/status") == [b"online"])
    wait_until(lambda: of_topic(listener, "site/box/status") == [b"online", b"offline"])


def test_a_lost_connection_is_told_by_the_will(
    broker: Broker, listener: Listener, tmp_path: Path, wait_until: Await
) -> None:
    with new(broker.port, tmp_path) as mqtt:
        wait_until(lambda: of_topic(listener, "site/box/status") == [b"online"])
        assert mqtt._connection is not None
        mqtt._connection._client.socket().shutdown(socket.SHUT_RDWR)
        wait_until(
            lambda: of_topic(listener, "site/box/status")[:3] == [b"online", b"offline", b"online"]
        )


def test_of_a_camera_the_latest_state_is_published_and_kept(
    broker: Broker,
    listener: Listener,
    tmp_path: Path,
    new_result: Any,
    new_event: Any,
    wait_until: Await,
) -> None:
    with new(broker.port, tmp_path) as mqtt:
        for class_name in ["idle"] * 500 + ["wave"]:
            mqtt.result(new_result(class_name=class_name))
        mqtt.event(new_event())
        wait_until(
            lambda: b'"event": "wave"' in b"".join(of_topic(listener, "site/box/door/state"))
        )
        mqtt.event(new_event(end_s=12.0))
        wait_until(lambda: b'"event": null' in of_topic(listener, "site/box/door/state")[-1])
        assert len(of_topic(listener, "site/box/door/state")) < 10
    with Listener(broker.port) as later:
        wait_until(lambda: of_topic(later, "site/box/door/state"))
        # Of the same name as the first listener, which connects anew: it may come twice.
        (state,) = set(of_topic(later, "site/box/door/state"))
    found = json.loads(state)
    assert (found["class"], found["probability"], found["frames"]) == ("wave", 0.75, 8)
    assert found["reason"] == "it fits"


def test_of_a_camera_that_is_gone_no_state_is_kept(
    broker: Broker, listener: Listener, tmp_path: Path, new_result: Any, wait_until: Await
) -> None:
    with new(broker.port, tmp_path, cameras=["door", "yard"]) as mqtt:
        for camera in ("door", "yard"):
            mqtt.result(new_result(source=camera))
        wait_until(lambda: of_topic(listener, "site/box/yard/state"))
        mqtt.set_cameras(["door"])
        wait_until(lambda: of_topic(listener, "site/box/yard/state")[-1] == b"")
    with Listener(broker.port) as later:
        wait_until(lambda: of_topic(later, "site/box/door/state"))
        assert not of_topic(later, "site/box/yard/state")


def test_a_number_that_comes_again_is_no_arrival(broker: Broker, wait_until: Await) -> None:
    connection = Connection("box", ("status", "offline"))
    connection.open("127.0.0.1", broker.port, user=None, password=None, context=None)
    number = connection.publish("state", "idle", qos=0)
    wait_until(lambda: number in connection._arrived)
    broker.pause()
    connection._client._last_mid = number - 1  # as after 65,535 others
    with pytest.raises(OutputError):
        connection.deliver("event", "wave", timeout_s=0.2)
    connection.close()


def test_odd_names_are_one_level_of_a_topic_and_come_back(
    broker: Broker, listener: Listener, tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with new(broker.port, tmp_path) as mqtt:
        mqtt.event(new_event(source=ODD, class_name=ODD))
        wait_until(lambda: events_of(listener))
    topic = next(each for each, _, _ in listener.messages if each.endswith("/event"))
    assert topic.count("/") == 3
    assert not set(topic) & set("+#\n")
    (event,) = events_of(listener)
    assert (event["source"], event["class"]) == (ODD, ODD)


def test_two_cameras_never_share_a_topic() -> None:
    names = ["a/b", "a%2Fb", "a+b", "a#b", "a b", "ab", "a\nb", "a%b", "a%25b"]
    assert len({topic_part(name) for name in names}) == len(names)


def test_home_assistant_is_told_of_each_camera(
    broker: Broker,
    listener: Listener,
    tmp_path: Path,
    new_event: Any,
    new_result: Any,
    wait_until: Await,
) -> None:
    """Its documented rules: a retained config with an origin, and templates that it renders."""
    configs: dict[str, dict[str, Any]] = {}

    def devices() -> int:
        for topic, body, _ in listener.messages:
            if topic.startswith("homeassistant/device/") and topic.endswith("/config"):
                configs[topic] = json.loads(body) if body else {}
        return len(configs)

    classes = ["wave", ODD]
    options = {"cameras": ["door", ODD], "classes": classes, "settings": {"discovery": True}}
    with new(broker.port, tmp_path, **options) as mqtt:
        mqtt.result(new_result(source=ODD, class_name=ODD))
        mqtt.event(new_event(1, source=ODD, class_name=ODD))
        wait_until(lambda: devices() == 2 and events_of(listener))
        config = next(each for each in configs.values() if each["device"]["name"] == ODD)
        wait_until(lambda: of_topic(listener, config["components"]["class"]["state_topic"]))
        mqtt.set_cameras(["door"])
        wait_until(lambda: devices() and {} in configs.values())
    for topic in configs:
        assert set(topic.split("/")[2]) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
    assert config["origin"]["name"] == "ffn-edge"
    assert config["availability_topic"] == "site/box/status"

    template = jinja2.Environment()
    template.filters["to_json"] = json.dumps

    def rendered(component: str, body: bytes) -> str:
        text = config["components"][component]["value_template"]
        return template.from_string(text).render(value=body.decode(), value_json=json.loads(body))

    (state, *_) = of_topic(listener, config["components"]["class"]["state_topic"])
    (event, *_) = of_topic(listener, config["components"]["event"]["state_topic"])
    assert rendered("class", state) == ODD
    assert rendered("active", state) == "ON"
    fired = json.loads(rendered("event", event))
    assert fired["event_type"] == ODD
    assert fired["event_type"] in config["components"]["event"]["event_types"]
    assert rendered("event", event.replace(b'"begin"', b'"end"')) == "{}"
    assert len({each["unique_id"] for each in config["components"].values()}) == 3


def test_what_came_while_the_broker_was_away_arrives_once_and_in_order(
    broker: Broker,
    listener: Listener,
    tmp_path: Path,
    new_event: Any,
    wait_until: Await,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if broker.name != "mosquitto":
        pytest.skip("forgets who listens when it ends")
    caplog.set_level(logging.INFO)
    with new(broker.port, tmp_path) as mqtt:
        mqtt.event(new_event(0))
        wait_until(lambda: mqtt.status().sent == 1 and events_of(listener))
        time.sleep(0.2)  # or the broker may not know yet that the listener has it
        broker.stop()
        for number in range(1, 50):
            mqtt.event(new_event(number))
        wait_until(lambda: mqtt.status().fault)
        time.sleep(0.5)
        assert mqtt.status().waiting == 49
        broker.start()
        wait_until(lambda: mqtt.status().sent == 50)
        assert mqtt.status().fault is None
    wait_until(lambda: len(events_of(listener)) == 50)
    assert [event["id"] for event in events_of(listener)] == [f"event-{n}" for n in range(50)]
    said = [record.levelname for record in caplog.records if "mqtt" in record.getMessage()]
    assert said.count("INFO") == 1
    assert 1 <= said.count("WARNING") <= 2  # it has left, and it cannot be reached


def test_a_broker_that_hangs_for_a_while_gets_each_event_once(
    broker: Broker, listener: Listener, tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with new(broker.port, tmp_path) as mqtt:
        mqtt.event(new_event(0))
        wait_until(lambda: mqtt.status().sent == 1)
        broker.pause()
        start = time.monotonic()
        for number in range(1, 20):
            mqtt.event(new_event(number))
        assert time.monotonic() - start < 0.5
        time.sleep(1.0)
        broker.go_on()
        wait_until(lambda: mqtt.status().sent == 20)
    wait_until(lambda: len(events_of(listener)) >= 20)
    assert [event["id"] for event in events_of(listener)] == [f"event-{n}" for n in range(20)]


def test_a_broker_that_is_away_at_the_start_gets_what_an_earlier_run_left(
    tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        broker.stop()
        with new(broker.port, tmp_path) as mqtt:
            mqtt.event(new_event(1))
            wait_until(lambda: mqtt.status().fault)
        broker.start()
        listener.wait()
        with new(broker.port, tmp_path) as mqtt:
            mqtt.event(new_event(2))
            wait_until(lambda: len(events_of(listener)) == 2)
    assert [event["id"] for event in events_of(listener)] == ["event-1", "event-2"]


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('amqtt')")
def test_another_broker_is_served_as_well(
    tmp_path: Path, new_event: Any, wait_until: Await
) -> None:
    with Broker(tmp_path, mosquitto=False) as broker, Listener(broker.port) as listener:
        assert broker.name == "amqtt"
        with new(broker.port, tmp_path, cameras=["door"]) as mqtt:
            mqtt.event(new_event(1))
            mqtt.event(new_event(1, end_s=12.0))
            wait_until(lambda: len(events_of(listener)) == 2)
            wait_until(lambda: mqtt.status().sent == 2)


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that is no broker, and talks to one client at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        is_ending = threading.Event()

        def run() -> None:
            while not is_ending.is_set():
                try:
                    client, _ = listening.accept()
                    with client:
                        client.settimeout(2)
                        talk(client)
                except OSError:
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield port
        finally:
            is_ending.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join(20)


def refuse(client: socket.socket) -> None:
    client.recv(1000)
    client.sendall(b"\x20\x02\x00\x05")  # CONNACK: not authorised
    client.recv(1000)


def test_a_broker_that_refuses_is_a_fault_that_is_said_once(
    tmp_path: Path, new_event: Any, wait_until: Await, caplog: pytest.LogCaptureFixture
) -> None:
    with server(refuse) as port:
        settings = {"user": "me"}
        with new(
            port, tmp_path, settings={**settings, "password": Secret("hunter2", "hunter2")}
        ) as mqtt:
            mqtt.event(new_event())
            wait_until(lambda: mqtt.status().fault)
            assert "authori" in (mqtt.status().fault or "").lower()
            time.sleep(0.5)
            assert mqtt.status().waiting == 1
            assert "hunter2" not in repr(vars(mqtt)["_settings"]) + str(mqtt.status())
    warnings = [record.getMessage() for record in caplog.records if "refuses" in record.message]
    assert len(warnings) == 1
    assert "password" in warnings[0]
    assert "hunter2" not in caplog.text


def hang(client: socket.socket) -> None:
    while client.recv(1000):
        pass


# paho leaves a socket to the garbage collector where TLS's handshake fails.
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed
@pytest.mark.parametrize("tls", [False, True])
def test_a_broker_that_never_answers_holds_nobody_up(
    tmp_path: Path, new_event: Any, tls: bool
) -> None:
    with server(hang) as port:
        start = time.monotonic()
        with new(port, tmp_path, settings={"tls": tls}) as mqtt:
            mqtt.event(new_event())
            time.sleep(0.3)
        assert time.monotonic() - start < 5
        assert mqtt.status().waiting == 1


@unclosed
def test_a_certificate_that_is_not_trusted_is_named(
    tmp_path: Path, certificate: tuple[Path, Path], wait_until: Await
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def shake(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as encrypted:
            refuse(encrypted)  # type: ignore[arg-type]

    with server(shake) as port:
        with new(port, tmp_path, settings={"tls": True}) as mqtt:
            wait_until(lambda: "certificate" in (mqtt.status().fault or ""))
        trusting = {"tls": True, "ca_file": certificate[0]}
        with new(port, tmp_path, settings=trusting) as mqtt:
            wait_until(lambda: "refuses" in (mqtt.status().fault or ""))  # by the broker itself
        (tmp_path / "no.pem").write_text("no certificate")
        with pytest.raises(OutputError, match=r"no\.pem"):
            new(port, tmp_path, settings={"tls": True, "ca_file": tmp_path / "no.pem"})


def test_settings_are_read_as_a_file_gives_them() -> None:
    settings = parse(MqttSettings, {"host": "broker.local", "tls": True, "ca_file": "ca.pem"})
    assert settings.topic.startswith("ffn-edge/")
    with pytest.raises(ValueError, match="port"):
        parse(MqttSettings, {"host": "broker.local", "port": 0})
