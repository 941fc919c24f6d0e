"""The page of `ffn-edge evaluate --report`: what it says, of answers of which it is known."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ffn_edge.commands.evaluate import evaluate
from ffn_edge.errors import WriteError
from ffn_edge.network import build
from ffn_edge.network.checkpoint import ModelCard, save_checkpoint
from ffn_edge.train.answers import Answers
from ffn_edge.train.batches import videos_for
from ffn_edge.train.evaluate import Row
from ffn_edge.train.evaluation_page import Evaluation, write_page

MOST_BYTES = 1_500_000


def evaluation(
    data: Path,
    classes: tuple[str, ...],
    labels: list[int],
    *columns: list[int],
    broken: tuple[str, ...] = (),
) -> Evaluation:
    """Answers, a column a frame count: 2, 4, 6, …; the videos are the test's twelve, in turn."""
    counts = tuple(range(2, 2 * len(columns) + 1, 2))
    right = np.array(labels, np.int64)[:, None] == np.array(columns, np.int64).T
    confidence = np.full(right.shape, 0.8)
    answers = Answers(
        counts,
        np.arange(len(labels)) % 12,
        np.array(labels, np.int64),
        np.array(columns, np.int64).T,
        right,
        confidence,
        np.where(right, 0.8, 0.1),
    )
    rows = [
        Row(frames, frames, frames / 10, each.top1, each.top5, each.clips)
        for frames, each in answers.accuracy().items()
    ]
    card = ModelCard(classes=("dark", "bright"), size=32, short_side=32)
    videos = videos_for(card, str(data / "list.txt"), counts)
    return Evaluation("best.pt", "list.txt", classes, rows, answers, videos, data, broken)


def written(found: Evaluation, folder: Path) -> str:
    """The page, of which anything that it loads would be a foreign host's."""
    write_page(found, folder / "page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert len(page) < MOST_BYTES
    assert not re.search(r"<(script|link|iframe)|(src|href)=['\"]?http|url\((?!data:|#)", page)
    return page


def words_of(page: str) -> str:
    """What a reader sees, without drawings and rules."""
    plain = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", plain)).split())


def test_it_shows_what_more_frames_mend(data: Path, tmp_path: Path) -> None:
    labels = [0] * 10 + [1] * 10
    found = evaluation(data, ("dark", "bright"), labels, [1] * 10 + [1] * 10, labels)

    words = words_of(written(found, tmp_path))

    assert "Right for 100.0% of the clips with 4 frames, 50.0% of the clips with 2 frames" in words
    assert "10 clips that 2 frames get wrong are right with 4, and 0 the other way round" in words
    assert "what 2 confuse: dark ↔ bright" in words
    assert "dark ↔ bright 10 0 10 0 0.002" in words  # 2/2^10
    assert "dark 10 0% 100%" in words
    assert "Every clip is right with 4 frames" in words


def test_it_says_when_there_are_too_few_clips_to_tell(data: Path, tmp_path: Path) -> None:
    found = evaluation(data, ("dark", "bright"), [0, 0, 1], [1, 1, 1], [0, 1, 1])

    words = words_of(written(found, tmp_path))

    assert "With so few clips that change, nothing can be told" in words
    assert "dark ↔ bright 2 1 1 0 too few" in words


def test_a_wrong_clip_is_shown_with_its_path_and_its_answers(data: Path, tmp_path: Path) -> None:
    found = evaluation(data, ("dark", "bright"), [0, 1, 1], [0, 1, 0], [0, 1, 0])

    page = written(found, tmp_path)

    assert page.count("<figure><div class=film style='background-image: url(data:image/jpeg") == 1
    assert "bright 2 frames: dark 0.80 ✗ 4 frames: dark 0.80 ✗ 2.mp4" in words_of(page)
    assert str(data) not in page


def test_names_are_shown_as_they_are_whatever_is_in_them(data: Path, tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "a & b")
    broken = (f"{data}/<b>\udcff.mp4 cannot be read",)  # the name is not of UTF-8
    found = evaluation(data, names, [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], broken=broken)

    page = written(found, tmp_path)

    assert "<script>alert(1)</script> ↔ a & b" in words_of(page)
    assert "1 video could not be read, and is left out: <b>?.mp4 cannot be read" in words_of(page)


@pytest.mark.parametrize(
    ("classes", "labels", "columns", "said"),
    [
        (("only",), [0, 0], [[0, 0]], "Every clip is right at every frame count"),
        (("a", "b"), [0, 1], [[0, 1], [0, 1]], "No two classes are confused less often"),
        (("a", "b", "c"), [1, 1], [[0, 1], [1, 1]], "2 of 3 classes the list has no clip: a, c"),
        (("a", "b"), [0, 1], [[1, 0]], "It takes two frame counts to tell"),
    ],
    ids=["one class", "all right", "classes without a clip", "one frame count"],
)
def test_it_says_where_there_is_nothing_to_show(
    classes: tuple[str, ...],
    labels: list[int],
    columns: list[list[int]],
    said: str,
    data: Path,
    tmp_path: Path,
) -> None:
    assert said in words_of(written(evaluation(data, classes, labels, *columns), tmp_path))


def test_many_classes_and_frame_counts_stay_a_page(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = tuple(f"class {i}" for i in range(400))
    labels = rng.integers(400, size=4000)
    columns = [
        np.where(rng.random(4000) < right, labels, (labels + 1) % 400).tolist()
        for right in np.linspace(0.2, 0.8, 8)
    ]

    page = written(evaluation(data, classes, labels.tolist(), *columns), tmp_path)

    assert "370 more" in page and "the 20 most frequent confusions" in page
    assert "class=matrix" not in page


def test_the_command_writes_it_beside_the_table(data: Path, tmp_path: Path) -> None:
    card = ModelCard(classes=("dark", "bright"), size=32, short_side=32)
    save_checkpoint(tmp_path / "model.pt", build("tsm_tiny", 2, (2, 4)).eval(), card)
    arguments = [str(tmp_path / "model.pt"), "--list", str(data / "list.txt"), "--workers", "0"]

    page = tmp_path / "page.html"
    result = CliRunner().invoke(evaluate, [*arguments, "--report", str(page)])

    assert result.exit_code == 0 and "top-1" in result.stdout
    assert "12 clips" in words_of(page.read_text(encoding="utf-8"))
    with pytest.raises(WriteError):  # before anything is evaluated
        CliRunner().invoke(
            evaluate, [*arguments, "--report", f"{page}/page.html"], catch_exceptions=False
        )
