"""A real broker, and results and events to send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.broker import Broker, Listener
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation, Sensed

NewEvent = Callable[..., Event]
NewResult = Callable[..., Result]
Await = Callable[[Callable[[], object]], None]


@pytest.fixture
def new_event() -> NewEvent:
    """A function that makes an event that begins, or with `end_s` one that has ended."""

    def new(
        number: int = 1,
        *,
        source: str = "door",
        class_name: str = "wave",
        start_s: float = 10.0,
        end_s: float | None = None,
        began_at: float | None = 1_700_000_000.0,
    ) -> Event:
        return Event(
            id=f"event-{number}", source=source, class_name=class_name, start_s=start_s,
            end_s=end_s, confidence=0.9, peak=0.95, peak_s=start_s, began_at=began_at,
        )  # fmt: skip

    return new


@pytest.fixture
def new_result() -> NewResult:
    """A function that makes a result."""

    def new(
        *,
        source: str = "door",
        class_name: str = "wave",
        frames: int = 8,
        latency_ms: float = 12.5,
        sensed: Sensed | None = None,
        limits: Limits | None = None,
    ) -> Result:
        observation = Observation(
            frames=frames, latency_ms=latency_ms, now=0.0,
            limits=limits or Limits(latency_ms=50, power_w=12), sensed=sensed or Sensed(),
        )  # fmt: skip
        return Result(
            time_s=1.0, elapsed_s=1.0, source=source,
            decision=Decision(frames=frames, reason="it fits"), observation=observation,
            engine_ms=10.0, device_ms=None, overhead_ms=1.0,
            top=(Prediction(class_name, 0.75),), precision="fp32", covers_s=2.0,
        )  # fmt: skip

    return new


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker on this machine that lets anyone in."""
    folder = tmp_path / "broker"
    folder.mkdir()
    with Broker(folder) as running:
        yield running


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    """Who gets all that the broker is given."""
    with Listener(broker.port) as listening:
        yield listening


@pytest.fixture
def wait_until() -> Await:
    """A function that waits until something holds, and fails after 20 s."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.01)

    return wait


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key; in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate, key_file = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key_file
