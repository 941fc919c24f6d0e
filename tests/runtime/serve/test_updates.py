"""Bundles that follow each other while a service runs: what is taken, refused, and sent back."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ffn_edge.bundle.bundle import MANIFEST, WEIGHTS, Bundle, Manifest, file_record
from ffn_edge.bundle.known_answer import answer_name
from ffn_edge.bundle.signature import PublicKey, new_key, sign
from ffn_edge.device import tensorrt_api
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import BundleError, EngineError
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.engines.engine import (
    EngineOptions,
    OpenEngines,
    check_answers,
    cpu_backend,
    open_engines,
)
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import OperatingPoint, Setting
from ffn_edge.runtime.serve import updates as updates_module
from ffn_edge.runtime.serve.updates import Updates, check_replaces
from tests.emulator import Emulator

POLL_S = 0.05


@dataclasses.dataclass
class Fake:
    """A classifier that only says whose it is."""

    identity: str
    thread: int
    engines: OpenEngines
    closed_by: int = 0


class Opens:
    """Opens fakes when it is called, and keeps account of them: those that are `open`."""

    def __init__(self) -> None:
        self.fakes: list[Fake] = []
        self.error: Exception | None = None
        self.backend = cpu_backend(1)

    @contextmanager
    def __call__(self, bundle: Bundle) -> Iterator[Classifier]:
        """Open one."""
        if self.error is not None:
            raise self.error
        fake = Fake(bundle.identity, threading.get_ident(), OpenEngines({}, self.backend))
        self.fakes.append(fake)
        try:
            yield cast(Classifier, fake)
        finally:
            fake.closed_by = threading.get_ident()

    @property
    def open(self) -> list[str]:
        """Whose fakes are open."""
        return [fake.identity for fake in self.fakes if not fake.closed_by]


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    monkeypatch.setattr(updates_module, "check_answers", lambda *_, **__: None)
    return Opens()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, updates_module.__name__)
    return caplog


def result(latency_ms: float = 5.0) -> Result:
    class Said:
        pass

    said = Said()
    said.latency_ms = latency_ms  # type: ignore[attr-defined]
    return cast(Result, said)


def identity(classifier: Classifier) -> str:
    return cast(Fake, classifier).identity


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
    return found


def some_looks() -> None:
    time.sleep(8 * POLL_S)


def change(folder: Path, **fields: Any) -> None:
    """Make another bundle of one, in place; what it says of its producer is new."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"producer": f"another {os.urandom(4).hex()}", **fields}
    (folder / "new").write_text(json.dumps(manifest))
    (folder / "new").replace(folder / MANIFEST)


def watch(path: Path, opens: Opens, **options: Any) -> Updates:
    return Updates(path, opens, poll_s=POLL_S, **options)


def test_what_is_there_is_opened_and_closed_by_one_thread(exported: Bundle, opens: Opens) -> None:
    with watch(exported.path, opens) as updates:
        assert identity(updates.classifier) == exported.identity == opens.open[0]
        assert updates.take() is None and updates.bundle == exported
        some_looks()
        assert len(opens.fakes) == 1

    (fake,) = opens.fakes
    assert fake.thread == fake.closed_by != threading.get_ident()


def test_what_cannot_be_opened_at_the_start_is_an_error(bundle_copy: Path, opens: Opens) -> None:
    opens.error = EngineError("no memory")
    with pytest.raises(EngineError, match="no memory"), watch(bundle_copy, opens):
        pass
    (bundle_copy / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="missing"), watch(bundle_copy, opens):
        pass


def replaced_by_renaming(folder: Path) -> None:
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    change(other)
    folder.rename(folder.with_name("old"))
    other.rename(folder)


def frame_count_added(folder: Path) -> None:
    change(folder)


@pytest.mark.parametrize("replace", [replaced_by_renaming, frame_count_added])
def test_a_new_bundle_takes_over_and_the_old_one_is_closed_after_the_trial(
    replace: Callable[[Path], None],
    bundle_copy: Path,
    opens: Opens,
    log: pytest.LogCaptureFixture,
) -> None:
    with watch(bundle_copy, opens) as updates:
        before = updates.bundle.identity
        replace(bundle_copy)
        new = wait_for(updates.take)
        assert new is updates.classifier
        assert identity(new) == Bundle.load(bundle_copy).identity != before
        for _ in range(updates_module._TRIAL - 1):
            updates.ran(result())
        some_looks()
        assert opens.open == [before, identity(new)]
        updates.ran(result())
        wait_for(lambda: opens.open == [identity(new)])
        assert updates.failed(EngineError("it broke")) is None  # there is nothing to go back to
    assert len(log.records) == 5  # open, new, open, takes over, closed
    assert {fake.thread for fake in opens.fakes} == {fake.closed_by for fake in opens.fakes}


def test_a_link_that_is_switched_is_a_new_bundle(
    bundle_copy: Path, tmp_path: Path, opens: Opens
) -> None:
    other = Path(shutil.copytree(bundle_copy, tmp_path / "other"))
    change(other)
    link = tmp_path / "current"
    link.symlink_to(bundle_copy)
    with watch(link, opens) as updates:
        (tmp_path / "next").symlink_to(other)
        (tmp_path / "next").replace(link)
        wait_for(updates.take)
        assert updates.bundle.path == other


def test_files_that_are_copied_slowly_are_taken_when_they_are_whole(
    bundle_copy: Path, tmp_path: Path, opens: Opens
) -> None:
    other = Path(shutil.copytree(bundle_copy, tmp_path / "other"))
    graph = other / "graph_2.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x5a\x00")  # a field that ONNX passes over
    files = json.loads((other / MANIFEST).read_text())["files"]
    change(other, files=files | {graph.name: dataclasses.asdict(file_record(graph))})
    new = Bundle.load(other).identity

    with watch(bundle_copy, opens) as updates:
        for file in (other / MANIFEST, graph):  # as `scp` does: the manifest is not the last
            content = file.read_bytes()
            with open(bundle_copy / file.name, "wb") as target:
                target.write(content[:100])
                target.flush()
                some_looks()
                assert len(opens.fakes) == 1
                target.write(content[100:])
        assert identity(wait_for(updates.take)) == new


def test_what_fails_is_not_tried_again_until_it_changes(
    bundle_copy: Path, opens: Opens, log: pytest.LogCaptureFixture
) -> None:
    def refusals() -> int:
        return sum("refused" in record.getMessage() for record in log.records)

    with watch(bundle_copy, opens) as updates:
        opens.error = EngineError("no memory")
        change(bundle_copy)
        wait_for(refusals)
        some_looks()
        assert refusals() == 1 and updates.take() is None

        opens.error = None
        (bundle_copy / MANIFEST).touch()
        assert wait_for(updates.take)


@pytest.mark.parametrize(
    ("fields", "noun"), [({"classes": ["a", "b", "c", "d", "e"]}, "classes"), ({}, "height")]
)
def test_a_bundle_that_cannot_go_on_where_another_stops_is_refused(
    fields: dict[str, Any],
    noun: str,
    bundle_copy: Path,
    opens: Opens,
    log: pytest.LogCaptureFixture,
) -> None:
    manifest = Bundle.load(bundle_copy).manifest
    other = dataclasses.replace(manifest, architecture="another", frame_counts=(2, 4))
    check_replaces(manifest, other)
    larger = dataclasses.replace(manifest.input, height=16)
    changed: Manifest = dataclasses.replace(
        manifest, **({"classes": tuple(fields["classes"])} if fields else {"input": larger})
    )
    with pytest.raises(BundleError, match=noun):
        check_replaces(manifest, changed)

    if fields:
        with watch(bundle_copy, opens) as updates:
            change(bundle_copy, **fields)
            wait_for(lambda: "classes" in log.text)
            assert updates.take() is None and len(opens.open) == 1


def test_a_bundle_whose_engines_were_not_built_is_refused(
    bundle_copy: Path, opens: Opens, log: pytest.LogCaptureFixture
) -> None:
    opens.backend = dataclasses.replace(opens.backend, name="tensorrt")
    with watch(bundle_copy, opens) as updates:
        opens.backend = cpu_backend(1, "not TensorRT, as there is no plan")
        change(bundle_copy)
        wait_for(lambda: "no plan" in log.text)
        assert updates.take() is None and "ffn-edge build" in log.text
        wait_for(lambda: len(opens.open) == 1)


def test_an_engine_that_fails_on_trial_goes_back_by_itself(
    bundle_copy: Path, opens: Opens, log: pytest.LogCaptureFixture
) -> None:
    with watch(bundle_copy, opens) as updates:
        old = updates.classifier
        change(bundle_copy)
        new = wait_for(updates.take)
        updates.ran(result())

        assert updates.failed(EngineError("the device is gone")) is old
        assert updates.classifier is old
        some_looks()
        assert not cast(Fake, new).closed_by  # its windows move now
        assert updates.take() is None
        wait_for(lambda: cast(Fake, new).closed_by)
        assert "the device is gone" in log.text
        some_looks()
        assert updates.take() is None and len(opens.fakes) == 2
        change(bundle_copy)
        assert wait_for(updates.take) is not old


def test_an_engine_that_is_far_slower_goes_back(bundle_copy: Path, opens: Opens) -> None:
    with watch(bundle_copy, opens) as updates:
        old = updates.classifier
        for _ in range(10):
            updates.ran(result(5.0))
        change(bundle_copy)
        new = wait_for(updates.take)
        # The first may be slow, as engines warm up.
        for ms in [500.0] * 3 + [80.0] * (updates_module._TRIAL - 3):
            assert updates.take() is None
            updates.ran(result(ms))
        assert updates.take() is old
        some_looks()
        assert not cast(Fake, new).closed_by  # its windows move now
        assert updates.take() is None
        wait_for(lambda: cast(Fake, new).closed_by)


def test_only_what_is_signed_is_taken(
    bundle_copy: Path, tmp_path: Path, opens: Opens, log: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "edge.key"
    signed_by = PublicKey.read(new_key(key))
    with (
        pytest.raises(BundleError, match="not signed"),
        watch(bundle_copy, opens, signed_by=signed_by),
    ):
        pass
    sign(Bundle.load(bundle_copy), key)
    with watch(bundle_copy, opens, signed_by=signed_by) as updates:
        change(bundle_copy)
        wait_for(lambda: "changed after it was signed" in log.text)
        assert updates.take() is None
        sign(Bundle.load(bundle_copy), key)
        assert wait_for(updates.take)


def test_a_folder_that_is_away_for_a_while_is_told_of_and_waited_for(
    bundle_copy: Path, opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    with watch(bundle_copy, opens) as updates:
        some_looks()
        bundle_copy.rename(bundle_copy.with_name("away"))
        some_looks()
        assert updates.take() is None
        assert "no folder" in caplog.text
        change(bundle_copy.with_name("away"))
        bundle_copy.with_name("away").rename(bundle_copy)
        assert wait_for(updates.take)


@contextmanager
def real(bundle: Bundle) -> Iterator[Classifier]:
    """Real engines of a bundle."""
    with open_engines(bundle, EngineOptions(threads=1, precision="fp32")) as engines:
        setting = Setting(points=[OperatingPoint(frames=t, base_ms=1) for t in engines])
        yield Classifier(engines, bundle.manifest, Adaptive(), setting)


def test_real_engines_must_give_the_known_answers(
    bundle_copy: Path, log: pytest.LogCaptureFixture
) -> None:
    with Updates(bundle_copy, real, poll_s=POLL_S) as updates:
        change(bundle_copy)
        assert wait_for(updates.take).engines.keys() == {2, 4}

    tensors = Bundle.load(bundle_copy).tensors()
    entry = tensors.entries[answer_name(4)]
    with Updates(bundle_copy, real, poll_s=POLL_S) as updates:
        with open(bundle_copy / WEIGHTS, "r+b") as file:
            file.seek(entry.offset)
            file.write(
                np.ones(entry.shape, np.float32).tobytes()
            )  # another answer than its engine gives
        files = json.loads((bundle_copy / MANIFEST).read_text())["files"]
        weights = dataclasses.asdict(file_record(bundle_copy / WEIGHTS))
        change(bundle_copy, files=files | {WEIGHTS: weights})
        wait_for(lambda: "not to be trusted" in log.text)
        assert updates.take() is None
        clip = np.zeros((1, 4, 32, 32, 3), np.uint8)
        assert np.isfinite(updates.classifier.engines[4].infer(clip)).all()


def test_the_steps_of_a_stream_must_give_the_known_answers(exported_causal: Bundle) -> None:
    options = EngineOptions(threads=1, stream=True)
    with open_engines(exported_causal, options) as engines:
        check_answers(engines, exported_causal, stream=True)


def test_tensorrt_runs_in_the_thread_that_infers(bundle_copy: Path, tmp_path: Path) -> None:
    options = EngineOptions(backend="tensorrt", cache=tmp_path / "cache")

    @contextmanager
    def on_device(bundle: Bundle) -> Iterator[Classifier]:
        with open_engines(bundle, options) as engines:
            setting = Setting(points=[OperatingPoint(frames=t, base_ms=1) for t in engines])
            yield Classifier(engines, bundle.manifest, Adaptive(), setting)

    def infer(classifier: Classifier) -> np.ndarray:
        assert classifier.engines.new_ring is not None
        with classifier.engines.new_ring(8) as ring:
            for row in range(4):
                ring.store(row, np.full((32, 32, 3), 60 * row, np.uint8))
            return classifier.engines[4].infer(ring.gather(np.arange(4)))

    tensorrt_api.load.cache_clear()
    with Emulator("10.3.0") as device:
        build_plans(Bundle.load(bundle_copy), PlanCache(options.cache), BuildOptions())
        with Updates(bundle_copy, on_device, poll_s=POLL_S) as updates:
            expected = infer(updates.classifier)
            for _ in range(2):
                change(bundle_copy)
                new = wait_for(updates.take)
                for _ in range(updates_module._TRIAL):
                    assert np.array_equal(infer(new), expected)
                    updates.ran(result())
                some_looks()  # what ran before is closed
                assert np.array_equal(infer(new), expected)
            change(bundle_copy)
            sent_back = wait_for(updates.take).engines
            with sent_back.new_ring(8):
                assert updates.failed(EngineError("it broke")) is new
                some_looks()  # what a window still holds is not closed
        assert device.alive == []
    tensorrt_api.load.cache_clear()
