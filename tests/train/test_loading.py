"""Batches: their order, their contents, and the account of broken videos."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn_edge.errors import DataError
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.data import Sample, VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loader_process import stack
from ffn_edge.train.loading import (
    Batch,
    BrokenVideos,
    Loader,
    ResumableSampler,
    to_model_input,
)

SIZE = 32


@pytest.fixture(scope="module")
def list_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos of 12 noisy frames, each of a class of its own."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(10):
        with VideoWriter(folder / f"{i}.mp4", 12, SIZE, SIZE) as writer:
            for frame in rng.integers(255, size=(12, SIZE, SIZE, 3), dtype=np.uint8):
                writer.write(frame)
    path = folder / "list.txt"
    path.write_text("".join(f"{i}.mp4 {i}\n" for i in range(10)))
    return path


def dataset(list_file: Path, *, train: bool = True) -> VideoDataset:
    return VideoDataset(
        list_file,
        (2, 4),
        classes=tuple("abcdefghij"),
        facts=dataset_facts("custom"),
        train=train,
        size=24,
        short_side=28,
    )


def batches(list_file: Path, *, workers: int = 0, train: bool = True) -> list[Batch]:
    """Two epochs of batches of 3."""
    videos = dataset(list_file, train=train)
    sampler = ResumableSampler(len(videos), shuffle=train)
    loader = Loader(videos, sampler, batch_size=3, workers=workers)
    made: list[Batch] = []
    for epoch in range(2):
        sampler.start(epoch)
        made += loader
    return made


def loader(videos: VideoDataset, *, workers: int) -> Loader:
    """Batches of 3, in the order of the list."""
    sampler = ResumableSampler(len(videos), shuffle=False)
    return Loader(videos, sampler, batch_size=3, workers=workers)


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(a.labels, b.labels)
        and a.broken == b.broken
        and all(torch.equal(a.clips[t], b.clips[t]) for t in a.clips)
        for a, b in zip(left, right, strict=True)
    )


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_holds_each_frame_count_as_uint8(list_file: Path) -> None:
    batch = batches(list_file)[0]
    assert {t: tuple(clip.shape) for t, clip in batch.clips.items()} == {
        2: (3, 2, 24, 24, 3),
        4: (3, 4, 24, 24, 3),
    }
    assert all(clip.dtype == torch.uint8 for clip in batch.clips.values())
    assert batch.labels.dtype == torch.int64 and batch.labels.shape == (3,)


def test_training_leaves_out_the_last_incomplete_batch_and_testing_does_not(
    list_file: Path,
) -> None:
    assert [len(batch.labels) for batch in batches(list_file)] == [3] * 6
    tested = batches(list_file, train=False)
    assert [len(batch.labels) for batch in tested] == [3, 3, 3, 1] * 2
    assert torch.cat([batch.labels for batch in tested[:4]]).tolist() == list(range(10))


def test_worker_processes_change_nothing_in_any_epoch(list_file: Path) -> None:
    alone = batches(list_file)
    assert same(batches(list_file, workers=2), alone)
    assert not same(alone[:3], alone[3:])  # the two epochs differ


def test_loading_draws_nothing_from_pytorchs_global_generator(list_file: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(list_file)
    assert torch.equal(torch.get_rng_state(), before)


def test_frames_are_normalised_and_come_out_channels_last() -> None:
    frames = torch.randint(0, 256, (2, 3, 5, 5, 3), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model_input = to_model_input(frames, mean, std)
    assert model_input.shape == (2, 3, 3, 5, 5)
    for channel in range(3):
        expected = (frames[..., channel].double() / 255 - mean[channel]) / std[channel]
        # float32 rounding only
        assert torch.allclose(model_input[:, :, channel].double(), expected, rtol=0, atol=1e-6)
    assert model_input.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert frames.dtype == torch.uint8


# --- loader processes ---------------------------------------------------------------------------


class Failing(VideoDataset):
    """Videos whose samples raise."""

    error: Exception

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        raise self.error


def failing(list_file: Path, error: Exception) -> Failing:
    videos = Failing(
        list_file,
        (2,),
        classes=tuple("abcdefghij"),
        facts=dataset_facts("custom"),
        train=False,
        size=24,
        short_side=28,
    )
    videos.error = error
    return videos


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_loader_process_that_was_killed_ends_the_pass_with_its_signal(
    list_file: Path, number: signal.Signals
) -> None:
    before = set(multiprocessing.active_children())
    again = loader(dataset(list_file), workers=2)
    list(again)
    killed = (set(multiprocessing.active_children()) - before).pop()
    assert killed.pid is not None
    os.kill(killed.pid, number)
    with pytest.raises(DataError, match=f"signal {number.value}"):
        list(again)


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_loader_process_without_room_ends_the_pass_with_the_cause(
    list_file: Path, error: Exception
) -> None:
    with pytest.raises(DataError, match=r"No space left|out of memory"):
        list(loader(failing(list_file, error), workers=1))


@pytest.mark.slow
@pytest.mark.parametrize("error", [EOFError("of a file"), ValueError("a mistake")])
def test_an_error_that_nobody_expected_comes_with_where_it_arose(
    list_file: Path, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)) as caught:
        list(loader(failing(list_file, error), workers=1))
    assert "in __getitem__" in str(caught.value.__cause__)


def test_a_pass_that_was_broken_off_leaves_nothing_for_the_next(list_file: Path) -> None:
    again = loader(dataset(list_file, train=False), workers=2)
    whole = list(again)
    next(iter(again))
    assert same(list(again), whole)


def test_signals_that_reach_every_process_leave_the_end_to_the_training(list_file: Path) -> None:
    before = set(multiprocessing.active_children())
    again = loader(dataset(list_file, train=False), workers=1)
    whole = list(again)
    (process,) = set(multiprocessing.active_children()) - before
    assert process.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    assert same(list(again), whole)
    del again
    process.join(20)
    assert process.exitcode == -signal.SIGKILL


PASSES = """
import sys
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.datasets import dataset_facts
from ffn_edge.train.loading import ResumableSampler, Loader

if __name__ == "__main__":
    videos = VideoDataset(
        sys.argv[1], (2, 4), classes=tuple("abcdefghij"), facts=dataset_facts("custom"),
        train=False, size=24, short_side=28,
    )
    loader = Loader(videos, ResumableSampler(len(videos)), batch_size=3, workers=2)
    while True:
        assert sum(len(batch.labels) for batch in loader) == 10
        print("passed", flush=True)
"""


@contextmanager
def passing(list_file: Path, folder: Path, *, inside: Sequence[str] = ()) -> Iterator[int]:
    """Pass over the videos again and again, in a session of its own, whose number is given."""
    script = folder / "passes.py"
    script.write_text(PASSES)
    command = [*inside, sys.executable, str(script), str(list_file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, start_new_session=True, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "passed\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.slow
def test_loader_processes_end_when_the_training_was_killed(
    list_file: Path, tmp_path: Path, in_session: Callable[[int], list[int]]
) -> None:
    with passing(list_file, tmp_path) as session:
        assert len(in_session(session)) > 3  # two loader processes, and what starts them
    end = time.monotonic() + 20
    while in_session(session) and time.monotonic() < end:
        time.sleep(0.1)
    assert not in_session(session)


@pytest.mark.slow
def test_batches_need_no_room_in_dev_shm(list_file: Path, tmp_path: Path) -> None:
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    small = "mount -t tmpfs -o size=4k tmpfs /dev/shm"
    if not shutil.which("unshare") or subprocess.run([*own, small], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have mounts of his own")
    with passing(list_file, tmp_path, inside=[*own, f'{small} && exec "$0" "$@"']):
        pass


# --- the order ----------------------------------------------------------------------------------


def epoch(sampler: ResumableSampler, number: int, position: int = 0) -> list[int]:
    sampler.start(number, position)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    assert all(key[0] == number for key in drawn)
    return [key[1] for key in drawn]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    sampler = ResumableSampler(20)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != sorted(first)
    assert epoch(ResumableSampler(20), 1) == second
    assert epoch(ResumableSampler(20, seed=1), 1) != second


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_continues_where_it_was_interrupted(world_size: int) -> None:
    for rank in range(world_size):
        whole = epoch(ResumableSampler(20, rank=rank, world_size=world_size), 5)
        resumed = epoch(ResumableSampler(20, rank=rank, world_size=world_size), 5, position=4)
        assert resumed == whole[4:]


def test_batches_after_an_interruption_are_those_that_would_have_come(list_file: Path) -> None:
    videos = dataset(list_file)
    sampler = ResumableSampler(len(videos))
    sampler.start(1, position=2 * 3)
    resumed = list(Loader(videos, sampler, batch_size=3, workers=0))
    assert same(resumed, batches(list_file)[5:])


def test_ranks_share_a_training_epoch_evenly_without_overlap() -> None:
    shares = [epoch(ResumableSampler(20, rank=rank, world_size=3), 0) for rank in range(3)]
    assert [len(share) for share in shares] == [6, 6, 6]
    assert len(set().union(*shares)) == 18


def test_ranks_share_a_test_set_completely() -> None:
    shares = [
        epoch(ResumableSampler(20, shuffle=False, rank=rank, world_size=3), 0) for rank in range(3)
    ]
    assert sorted(index for share in shares for index in share) == list(range(20))


@pytest.mark.parametrize("size", [12, 31])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_balanced_epoch_has_each_class_equally_often(size: int, world_size: int) -> None:
    labels = [0] * (size - 4) + [1] + [5] * 3
    for number in range(3):
        samplers = [
            ResumableSampler(size, labels=labels, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        drawn = [index for sampler in samplers for index in epoch(sampler, number)]
        assert len(drawn) == len(set(drawn)) == size - size % world_size
        if world_size == 1:
            times = [sum(labels[index % size] == label for index in drawn) for label in (0, 1, 5)]
            assert sum(times) == size and max(times) - min(times) <= 1
            # None comes again before all of its class have come.
            for label in (0, 1, 5):
                videos = [index % size for index in drawn if labels[index % size] == label]
                often = [videos.count(i) for i in range(size) if labels[i] == label]
                assert max(often) - min(often) <= 1


def test_a_balanced_epoch_continues_where_it_was_interrupted() -> None:
    labels = [i % 7 == 0 for i in range(20)]
    whole = epoch(ResumableSampler(20, labels=labels), 2)
    assert epoch(ResumableSampler(20, labels=labels), 2, position=5) == whole[5:]
    assert epoch(ResumableSampler(20, labels=labels), 3) != whole
    assert epoch(ResumableSampler(20, labels=labels, seed=1), 2) != whole


def test_a_video_that_comes_again_is_another_sample(list_file: Path) -> None:
    videos = dataset(list_file)
    first, again = videos[0, 1], videos[0, 1 + len(videos)]
    assert first.label == again.label
    assert any((first.clips[t] != again.clips[t]).any() for t in first.clips)


# --- broken videos ------------------------------------------------------------------------------


def batch(read: int, *broken: str) -> Batch:
    labels = torch.zeros(read, dtype=torch.int64)
    return Batch({4: torch.zeros(read, 4, 1, 1, 3)}, labels, list(range(read)), broken)


def test_samples_that_could_not_be_read_are_left_out_of_a_batch_and_named() -> None:
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    stacked = stack(
        {
            (0, 3): Sample({4: clip}, 7),
            (0, 1): Sample({}, 8, ("bad.mp4",)),
            (0, 4): Sample({4: clip}, 9, ("cut.mp4",)),
        }
    )
    assert stacked.indices == [3, 4]
    assert stacked.labels == [7, 9]
    assert stacked.clips[4].shape == (2, 4, 8, 8, 3)
    assert stacked.broken == ("bad.mp4", "cut.mp4")


def test_there_are_no_more_processes_than_batches(list_file: Path) -> None:
    videos = dataset(list_file, train=False)
    batches = Loader(videos, ResumableSampler(len(videos)), batch_size=len(videos), workers=8)
    assert len(list(batches)) == len(batches._processes) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_which_nothing_could_be_read_is_empty(list_file: Path, workers: int) -> None:
    file = list_file.parent / "lost.mp4"
    file.write_bytes(list_file.with_name(list_file.read_text().split()[0]).read_bytes())
    lost = list_file.parent / "lost.txt"
    lost.write_text("lost.mp4 0\n")
    videos = dataset(lost, train=False)
    file.write_bytes(b"no video")  # after the list was tried
    (found,) = loader(videos, workers=workers)
    assert found.clips == {} and len(found.labels) == 0 and len(found.broken) == 1


def test_broken_videos_up_to_the_limit_are_borne_and_each_is_counted_once() -> None:
    broken = BrokenVideos(1000)
    broken.add(batch(99, "a.mp4"))
    broken.add(batch(99, "a.mp4"))
    broken.add(batch(95, "b.mp4", "c.mp4"))
    assert broken.reasons == ("a.mp4", "b.mp4", "c.mp4")


def test_more_broken_videos_than_the_limit_stop_the_run() -> None:
    broken = BrokenVideos(1000, max_share=0.05)
    broken.add(batch(19, "a.mp4"))
    with pytest.raises(DataError, match=r"3 of 40 .* more than 5%: a\.mp4; b\.mp4; c\.mp4"):
        broken.add(batch(18, "b.mp4", "c.mp4"))


def test_one_broken_video_among_the_first_few_is_no_reason_to_stop() -> None:
    broken = BrokenVideos(1000)
    broken.add(batch(7, "a.mp4"))
    broken.add(batch(30))
    assert broken.reasons == ("a.mp4",)


def test_later_epochs_do_not_thin_out_the_broken_share() -> None:
    broken = BrokenVideos(20, max_share=0.1)
    for _ in range(100):
        broken.add(batch(19, "a.mp4"))
    broken.add(batch(19, "b.mp4"))
    with pytest.raises(DataError, match="3 of 20"):
        broken.add(batch(19, "c.mp4"))


def test_a_batch_without_a_readable_video_is_passed_over_while_the_share_is_small() -> None:
    broken = BrokenVideos(1000)
    watched = broken.watch([batch(99), batch(0, "a.mp4"), batch(1)])
    assert [len(each.labels) for each in watched] == [99, 1]
    assert broken.reasons == ("a.mp4",)


@pytest.fixture
def partly_broken(list_file: Path, tmp_path: Path) -> Path:
    for video in list_file.parent.glob("*.mp4"):
        whole = video.read_bytes()
        kept = len(whole) // 2 if video.stem in "37" else len(whole)
        (tmp_path / video.name).write_bytes(whole[:kept])
    (tmp_path / "list.txt").write_text(list_file.read_text())
    return tmp_path / "list.txt"


def test_broken_videos_are_reported_through_the_loader(partly_broken: Path) -> None:
    trained, tested = batches(partly_broken), batches(partly_broken, train=False)
    bad = {str(partly_broken.parent / "3.mp4"), str(partly_broken.parent / "7.mp4")}
    for found in (trained, tested):
        assert {reason.split()[0] for batch in found for reason in batch.broken} == bad
    assert all(len(batch.labels) == 3 for batch in trained)  # replaced
    assert sum(len(batch.labels) for batch in tested) == 2 * 8  # left out
