"""Class names and a validation list where the recipe gives none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.errors import DataError
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.lists import TrainingLists, training_lists
from ffn_edge.train.recipe import Recipe

Listed = Callable[[str], TrainingLists]


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    """Reads a list of "wave/0.mp4" to "wave/9.mp4", "clap/…" and "rest/…", in a folder."""
    for name in ("wave", "clap", "rest"):
        (tmp_path / name).mkdir()
        for number in range(10):
            with VideoWriter(tmp_path / name / f"{number}.mp4", 4, 16, 16) as writer:
                for _ in range(8):
                    writer.write(np.zeros((16, 16, 3), np.uint8))

    def read(text: str) -> TrainingLists:
        (tmp_path / "list.csv").write_text(text)
        path = str(tmp_path / "list.csv")
        return training_lists(
            Recipe(architecture="tsm_tiny", dataset="custom", train_list=path, size=16)
        )

    return read


def lines(form: str, classes: dict[str, object]) -> str:
    return "".join(
        form.format(name=name, i=i, label=label)
        for name, label in classes.items()
        for i in range(10)
    )


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (
            lines("{name}/{i}.mp4 {label}\n", dict(wave="hi there", clap="10", rest="9")),
            ("9", "10", "hi there"),
        ),
        (
            lines("{name}/{i}.mp4 {label}\n", dict(wave="2 hands", clap="3 hands", rest="hands")),
            ("2 hands", "3 hands", "hands"),
        ),
        (
            "video,label\n"
            + lines("{name}/{i}.mp4,{label}\n", dict(wave="2 hands", clap="3 hands", rest="hands")),
            ("2 hands", "3 hands", "hands"),
        ),
        (lines("{name}/{i}.mp4\n", dict(wave="", clap="", rest="")), ("clap", "rest", "wave")),
        (lines("{name}/{i}.mp4 {label}\n", dict(wave=0, clap=1, rest=2)), ("wave", "clap", "rest")),
        (lines("{name}/{i}.mp4 {label}\n", dict(wave=1, clap=2, rest=3)), ("wave", "clap", "rest")),
        (lines("{name}/{i}.mp4 {label}\n", dict(wave=0, clap=1, rest=1)), ("0", "1")),
        (lines("{name}/{i}.mp4 {label}\n", dict(wave=0, clap=2)), ("0", "1", "2")),
    ],
    ids=[
        "labels",
        "numbered labels",
        "in a table",
        "folders",
        "numbered folders",
        "from one",
        "numbers",
        "with a gap",
    ],
)
def test_names_come_from_the_list_or_the_folders(
    text: str, classes: tuple[str, ...], listed: Listed
) -> None:
    found = listed(text)
    assert found.classes == classes
    by_folder = {}
    for video in (*found.train, *found.val):
        by_folder.setdefault(video.path.parent.name, set()).add(video.label)
    assert all(len(labels) == 1 for labels in by_folder.values())


def test_a_fifth_of_each_class_validates_and_the_draw_is_the_seeds(listed: Listed) -> None:
    text = lines("{name}/{i}.mp4 {name}\n", dict.fromkeys(("wave", "clap", "rest")))
    found = listed(text)
    assert [sum(v.label == label for v in found.val) for label in range(3)] == [2, 2, 2]
    assert len(found.train) == 24 and not set(found.train) & set(found.val)
    assert listed(text) == found


def test_the_draw_is_the_same_from_wherever_a_run_is_started(
    listed: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listed(lines("{name}/{i}.mp4 {name}\n", dict.fromkeys(("wave", "clap", "rest"))))
    drawn = [video.path.relative_to(tmp_path) for video in found.val]
    recipe = Recipe(architecture="tsm_tiny", dataset="custom", train_list="list.csv", size=16)
    monkeypatch.chdir(tmp_path)
    assert [video.path for video in training_lists(recipe).val] == drawn
    monkeypatch.chdir(tmp_path / "wave")
    again = training_lists(recipe.replace(train_list="../list.csv", root=".."))
    assert [video.path for video in again.val] == [".." / path for path in drawn]


def test_parts_of_one_video_stay_on_one_side(listed: Listed) -> None:
    rows = [
        f"wave/{i}.mp4,{j / 2},{j / 2 + 0.5},{'ab'[j % 2]}\n" for i in range(10) for j in range(4)
    ]
    found = listed("video,start_s,end_s,label\n" + "".join(rows))
    assert len(found.val) == 8
    assert not {video.path for video in found.train} & {video.path for video in found.val}


def test_a_list_of_too_few_videos_is_refused(listed: Listed) -> None:
    with pytest.raises(DataError, match="too few"):
        listed("wave/1.mp4 wave\nclap/1.mp4 clap\n")
