"""Reading and writing videos: what comes out, and what is said of files that are no use."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from ffn_edge.errors import VideoError
from ffn_edge.media.frame_folder import FrameFolder, read_frame_folder
from ffn_edge.media.images import read_image
from ffn_edge.media.opencv import use_one_thread
from ffn_edge.media.picture import Box, crop_resize, prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_writer import VideoWriter

FRAMES = 30


def numbered_frame(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame with eight upright bars: the bits of its index, legible after compression."""
    bits = (index >> np.arange(8)) & 1
    row = np.repeat(bits * 200 + 20, width // 8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def numbers_on(frames: np.ndarray) -> list[int]:
    columns = frames.mean(axis=(1, 3)).reshape(len(frames), 8, -1).mean(axis=2)  # (N, 8)
    return [int((row > 120) @ (1 << np.arange(8))) for row in columns]


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movie") / "movie.mp4"
    with VideoWriter(path, fps=12, width=64, height=48) as writer:
        for i in range(FRAMES):
            writer.write(numbered_frame(i))
    return path


# --- reading ------------------------------------------------------------------------------------


def test_a_reader_tells_what_its_file_holds(movie: Path) -> None:
    with VideoReader(movie) as reader:
        assert (reader.num_frames, reader.fps, reader.height, reader.width) == (FRAMES, 12, 48, 64)


def test_iterating_gives_every_frame_in_order(movie: Path) -> None:
    with VideoReader(movie) as reader:
        frames = list(reader)
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    assert numbers_on(np.stack(frames)) == list(range(FRAMES))


def test_frames_are_read_in_the_order_asked_for_with_repeats(movie: Path) -> None:
    with VideoReader(movie) as reader:
        assert numbers_on(reader.read([7, 3, 3, 29, 0])) == [7, 3, 3, 29, 0]
        assert numbers_on(reader.read([1, 2])) == [1, 2]  # after a pass that went further
        assert reader.read([]).shape == (0, 48, 64, 3)


def test_one_pass_converts_only_the_wanted_frames_and_each_once(
    movie: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, converted = [], []
    open_, image = VideoReader._open, VideoReader._image
    monkeypatch.setattr(VideoReader, "_open", lambda r: (opened.append(1), open_(r))[1])
    monkeypatch.setattr(VideoReader, "_image", lambda r, p: (converted.append(1), image(r, p))[1])
    with VideoReader(movie) as reader:
        found = reader.sample(lambda n: {2: [n - 1, 5], 3: [5, 11, 5]})
    assert (len(opened), len(converted)) == (1, 3)
    assert {key: numbers_on(frames) for key, frames in found.items()} == {
        2: [29, 5],
        3: [5, 11, 5],
    }


def test_frames_are_prepared_one_by_one_as_they_are_decoded(movie: Path) -> None:
    with VideoReader(movie) as reader:
        found = reader.sample(lambda n: {"few": [[0, 9], [3, 3]]}, lambda frame: frame[:2, :3])
    assert found["few"].shape == (2, 2, 2, 3, 3)


def test_passes_over_a_file_do_not_disturb_each_other(movie: Path) -> None:
    with VideoReader(movie) as reader:
        first = iter(reader)
        seen = [next(first)]
        assert reader.num_frames == FRAMES
        assert numbers_on(reader.read([3])) == [3]
        seen += list(first)
        late = iter(reader)
    assert numbers_on(np.stack(seen)) == list(range(FRAMES))
    assert numbers_on(np.stack(list(late))) == list(range(FRAMES))  # each has a file of its own


def test_an_index_outside_the_video_is_refused(movie: Path) -> None:
    with VideoReader(movie) as reader, pytest.raises(IndexError, match="30 frames"):
        reader.read([30])


def _missing(path: Path, whole: bytes) -> None:
    pass


def _empty(path: Path, whole: bytes) -> None:
    path.touch()


def _folder(path: Path, whole: bytes) -> None:
    path.mkdir()


def _text(path: Path, whole: bytes) -> None:
    path.write_text("this is no video\n" * 100)


def _truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def _without_a_frame(path: Path, whole: bytes) -> None:
    cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48)).release()


BAD_FILES = {
    _missing: "there is no video",
    _empty: "is empty",
    _folder: "is not a file",
    _text: "cannot be read as a video",
    _truncated: "cannot be read as a video",
    _without_a_frame: "cannot be read as a video",
}


@pytest.mark.parametrize("make", BAD_FILES, ids=lambda make: make.__name__.strip("_"))
def test_a_file_that_is_no_video_is_refused_with_a_hint(
    make: Callable[[Path, bytes], None], movie: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.mp4"
    make(path, movie.read_bytes())
    with pytest.raises(VideoError, match=BAD_FILES[make]) as caught:
        VideoReader(path).__enter__()
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_bad_files_leave_stderr_to_us(movie: Path, tmp_path: Path) -> None:
    for make in BAD_FILES:
        make(tmp_path / f"{make.__name__}.mp4", movie.read_bytes())
    # FFmpeg's level is set once per process, and other tests use OpenCV before.
    code = f"""
from pathlib import Path
from ffn_edge.errors import VideoError
from ffn_edge.runtime.stream.camera import Camera
from ffn_edge.media.video import VideoReader
for path in Path({str(tmp_path)!r}).iterdir():
    try:
        with VideoReader(path) as reader:
            reader.read([0])
    except VideoError:
        continue
    raise SystemExit(f"{{path}} was read")
try:
    Camera("99").__enter__()
except VideoError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("missing", "use"), [("cv2", "Camera('0')"), ("av", f"VideoReader({__file__!r})")]
)
def test_without_a_library_the_module_imports_and_using_it_says_what_to_install(
    missing: str, use: str
) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.stream.camera import Camera
from ffn_edge.media.video import VideoReader
try:
    {use}.__enter__()
except FfnEdgeError as error:
    sys.exit(0 if 'pip install "ffn-edge[video]"' in error.hint else "wrong hint")
sys.exit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- writing ------------------------------------------------------------------------------------


def test_a_failure_while_writing_leaves_the_previous_file(movie: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(movie.read_bytes())
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, 24, 64, 48) as writer:
        writer.write(numbered_frame(0))
        raise RuntimeError("stop")
    assert path.read_bytes() == movie.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [1_000, 20_000, 200_000])
def test_a_full_disk_is_noticed_and_leaves_no_file(limit: int, tmp_path: Path) -> None:
    # A limit on the size of files fails writes as a full disk does.
    code = f"""
import resource, signal
import numpy as np
from ffn_edge.errors import VideoError
from ffn_edge.media.video_writer import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
noise = np.random.default_rng(0).integers(255, size=(20, 240, 320, 3), dtype=np.uint8)
try:
    with VideoWriter({str(tmp_path / "out.mp4")!r}, 24, 320, 240) as writer:
        for frame in noise:
            writer.write(frame)
except VideoError as error:
    raise SystemExit("could not be written" not in error.message)
raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 65)])
def test_what_is_written_is_read_back(
    codec: Literal["h264", "mpeg4"], height: int, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 29.97, width, height, codec=codec) as writer:
        for i in range(FRAMES):
            writer.write(np.full((height, width, 3), 8 * i, np.uint8))
    with VideoReader(path) as reader:
        assert reader.fps == pytest.approx(29.97, abs=0.01)
        assert (reader.height - height, reader.width - width) in ((0, 0), (-1, -1))
        frames = list(reader.timed())
    assert np.allclose([f.time_s for f in frames], np.arange(FRAMES) / 29.97, atol=1e-3)
    assert np.allclose([f.image.mean() for f in frames], 8 * np.arange(FRAMES), atol=4)


def test_frames_keep_their_own_times(tmp_path: Path) -> None:
    times = [0.0, 0.02, 0.5, 3.0]
    with VideoWriter(tmp_path / "out.mp4", 30, 64, 48) as writer:
        for time_s in times:
            writer.write(numbered_frame(0), time_s)
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert np.allclose([frame.time_s for frame in reader.timed()], times, atol=1e-4)


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="expected"),
        VideoWriter(tmp_path / "out.mp4", 24, 64, 48) as writer,
    ):
        writer.write(numbered_frame(0, height=64))


def test_a_video_without_a_frame_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(VideoError, match="given no frame"),
        VideoWriter(tmp_path / "out.mp4", 24, 64, 48),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_mp4_files_are_written(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"out\.avi") as caught:
        VideoWriter(tmp_path / "out.avi", 24, 64, 48).__enter__()
    assert "out.mp4" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match=r"out\.mp4 could not be written"):
        VideoWriter(tmp_path / "file" / "out.mp4", 24, 64, 48).__enter__()


# --- preparing frames ---------------------------------------------------------------------------


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth 90x120 picture, different everywhere and in each channel."""
    y, x = np.mgrid[:90, :120].astype(np.float64)
    return np.stack([2 * x, 255 - 2 * y, 127 + 120 * np.sin(x / 30)], axis=-1).astype(np.uint8)


def test_a_frame_of_the_right_size_only_changes_its_channel_order(picture: np.ndarray) -> None:
    square = picture[:64, :64]
    assert np.array_equal(prepare_frame(square, 64, 64), square[..., ::-1])


@pytest.mark.parametrize(("short_side", "size"), [(32, 32), (36, 32), (64, 56), (180, 160)])
def test_preparing_equals_scaling_the_whole_frame_and_cropping_its_centre(
    picture: np.ndarray, short_side: int, size: int
) -> None:
    whole = cv2.resize(
        picture, (round(120 * short_side / 90), short_side), interpolation=cv2.INTER_LINEAR
    )
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    expected = whole[top : top + size, left : left + size, ::-1].astype(int)
    prepared = prepare_frame(picture, short_side, size)
    assert prepared.shape == (size, size, 3)
    # The picture rises by up to 4 levels a pixel, and the centre is rounded to a whole pixel of
    # the scaled frame in one and of the source in the other.
    assert np.abs(prepared - expected).max() <= 8


@pytest.mark.parametrize("side", [36, 48, 64, 90])
def test_scaling_down_averages_fine_stripes_to_grey(side: int) -> None:
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = crop_resize(stripes, Box(0, 0, side, side), 24)
    # Taking single pixels would give 0 and 255. A whole factor of 3 leaves 85 and 170.
    assert grey.min() >= 60 and grey.max() <= 195
    assert abs(float(grey.mean()) - 127.5) < 4


@pytest.mark.parametrize(("mirror", "upside_down"), [(True, False), (False, True), (True, True)])
def test_flips_are_those_of_the_finished_picture(
    picture: np.ndarray, mirror: bool, upside_down: bool
) -> None:
    box = Box(10, 20, 50, 60)
    plain = crop_resize(picture, box, 32)
    expected = plain[:: -1 if upside_down else 1, :: -1 if mirror else 1]
    flipped = crop_resize(picture, box, 32, mirror=mirror, upside_down=upside_down)
    assert np.array_equal(flipped, expected)


# --- images and frame folders -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(FRAMES):
        cv2.imwrite(str(folder / f"img_{i + 1:05d}.jpg"), numbered_frame(i))
    return folder


def read(folder: Path, indices: list[int], num_frames: int = FRAMES) -> np.ndarray:
    return read_frame_folder(folder, indices, num_frames=num_frames, pattern="img_%05d.jpg")


def test_a_frame_folder_is_read_in_the_order_asked_for(folder: Path) -> None:
    assert numbers_on(read(folder, [4, 0, 29])) == [4, 0, 29]


def test_a_gap_in_a_frame_folder_is_named_even_where_it_is_not_wanted(folder: Path) -> None:
    (folder / "img_00012.jpg").unlink()
    (folder / "img_00020.jpg").unlink()
    with pytest.raises(VideoError, match=r"lacks img_00012\.jpg of its 30"):
        read(folder, [0, 1])


def test_a_frame_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="nowhere cannot be read"):
        read(tmp_path / "nowhere", [0])


def test_frames_of_different_sizes_are_refused(folder: Path) -> None:
    cv2.imwrite(str(folder / "img_00002.jpg"), numbered_frame(1, height=50))
    with pytest.raises(VideoError, match="differ in size"):
        read(folder, [0, 1])


def test_a_folder_without_a_pattern_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.png"), numbered_frame(i))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    reader = FrameFolder(tmp_path)
    assert reader.num_frames == 12
    assert numbers_on(np.stack(list(reader))) == list(range(12))
    assert FrameFolder(tmp_path, num_frames=5).num_frames == 5
    with pytest.raises(VideoError, match="holds 12 images, not 13"):
        FrameFolder(tmp_path, num_frames=13)


def test_images_of_several_kinds_are_no_frames_of_one_video(folder: Path) -> None:
    cv2.imwrite(str(folder / "flow_x_00001.jpg"), numbered_frame(0))
    with pytest.raises(VideoError, match=r"several kinds: flow_x_#\.jpg, img_#\.jpg"):
        FrameFolder(folder)
    assert numbers_on(read(folder, [3])) == [3]


def test_an_image_that_states_more_pixels_than_fit_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), numbered_frame(0))
    data = bytearray((tmp_path / "0.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "0.png").write_bytes(data)
    with pytest.raises(VideoError, match="cannot be read as an image"):
        read_image(tmp_path / "0.png")


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds 0 images"):
        FrameFolder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_a_damaged_image_is_refused(folder: Path, content: bytes | None) -> None:
    path = folder / "img_00001.jpg"
    noise = np.random.default_rng(0).integers(255, size=(48, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(VideoError, match="img_00001"):
        read(folder, [0])


def test_a_whole_image_is_read(folder: Path) -> None:
    assert read_image(folder / "img_00003.jpg").shape == (48, 64, 3)


def test_a_worker_can_keep_opencv_to_one_thread() -> None:
    before = cv2.getNumThreads()
    try:
        use_one_thread()
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
