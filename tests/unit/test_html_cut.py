"""What the HTML page leaves out of long prompts and answers, and that it says so."""

from __future__ import annotations

import base64
import json
import random
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from rlkv_eval.folder import create, keep_problems
from rlkv_eval.html import cut as cutting
from rlkv_eval.html import page
from rlkv_eval.html.cut import ANSWER_LEAST, PROMPT_LEAST, cut, fitted, packed, water_level
from rlkv_eval.records import Sample
from rlkv_eval.tasks import Example

ROOM = 200_000


def text(seed: int, words: int) -> str:
    """Words of which some are frequent, as in a language."""
    rng = random.Random(seed)
    return " ".join(f"{int(rng.paretovariate(0.3)) % 10**7}" for _ in range(words))


def test_a_cut_keeps_head_and_tail_and_counts_the_rest() -> None:
    whole = "".join(chr(33 + i % 90) for i in range(1000))
    head, marker, tail = cut(whole, 250).split("\n\n")
    assert whole.startswith(head) and whole.endswith(tail) and len(head) == len(tail) == 100
    assert marker == "[… 800 characters left out …]"
    assert cut(whole, 1000) == whole


@pytest.mark.parametrize("length", [201, 230, 10**4, 10**6])
def test_a_cut_text_is_never_longer(length: int) -> None:
    assert len(cut("x" * length, 200)) <= 200


@pytest.mark.parametrize(
    ("lengths", "total", "level"),
    [([5, 1, 9], 15, 9), ([5, 1, 9], 12, 6), ([5, 1, 9], 6, 2), ([4, 4], 7, 3), ([4], 0, 0), ([], 3, 0)],
)
def test_water_level_by_hand(lengths: list[int], total: int, level: int) -> None:
    assert water_level(lengths, total) == level


def test_prompts_are_cut_before_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, answers = [text(i, 8000) for i in range(20)], [text(100 + i, 600) for i in range(40)]
    deflated: list[int] = []
    compress = zlib.compress
    monkeypatch.setattr(
        cutting.zlib, "compress", lambda data, level: deflated.append(len(data)) or compress(data, level)
    )
    short, same = fitted(prompts, answers, ROOM)
    assert sum(deflated) < 2.5 * sum(map(len, prompts + answers)), "deflated again and again"
    assert same == answers
    assert 0.85 * ROOM < len(packed([short, same])) <= ROOM
    assert min(map(len, short)) > PROMPT_LEAST


def test_answers_are_cut_where_the_shortest_prompts_leave_too_little_room() -> None:
    prompts, answers = [text(i, 4000) for i in range(30)], [text(100 + i, 900 + i) for i in range(120)]
    short, shorter = fitted(prompts, answers, ROOM)
    assert {PROMPT_LEAST - 50 <= len(prompt) <= PROMPT_LEAST for prompt in short} == {True}
    assert 0.85 * ROOM < len(packed([short, shorter])) <= ROOM
    assert min(map(len, shorter)) > ANSWER_LEAST


def test_cutting_stops_where_texts_would_say_nothing() -> None:
    _, shorter = fitted([], [text(i, 100) for i in range(50)], -1)
    assert {ANSWER_LEAST - 50 <= len(answer) <= ANSWER_LEAST for answer in shorter} == {True}


def test_what_fits_stays_whole() -> None:
    assert fitted(["problem"] * 3, ["answer", ""], 1000) == (["problem"] * 3, ["answer", ""])


def test_the_size_of_very_many_is_told_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text(i, 300 + 5 * i) for i in range(100)]
    whole = cutting._size(texts)
    monkeypatch.setattr(cutting, "MEASURED", sum(map(len, texts)) // 4)
    assert cutting._size(texts) == pytest.approx(whole, rel=0.05)


def test_the_page_keeps_answers_whole_where_prompts_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with 150 prompts of 8,000 words, at a tenth of the size."""
    monkeypatch.setattr(page, "SAMPLES_LIMIT", ROOM)
    create(tmp_path)
    prompts, answers = [text(i, 8000) for i in range(20)], [text(100 + i, 600) for i in range(20)]
    keep_problems(tmp_path, "tiny:easy", [Example(f"id{i}", prompt, "7") for i, prompt in enumerate(prompts)])
    samples = [
        Sample(i, f"id{i}", answer, "7", True, "equal", 9, 40, "stop", False, None, 1e4, 9e3, 50)
        for i, answer in enumerate(answers)
    ]
    blob = page._samples(tmp_path, ["tiny:easy"], [(SimpleNamespace(), samples)])  # type: ignore[list-item]
    assert 0.85 * ROOM < len(blob) <= ROOM
    data = json.loads(zlib.decompress(base64.b64decode(blob)))
    assert [data["texts"][data["results"]["0"][str(i)][0]] for i in range(20)] == answers
    for i, (name, prompt, answer) in enumerate(data["problems"]["tiny:easy"]):
        assert (name, answer) == (f"id{i}", "7") and "characters left out" in prompt
        assert prompts[i].startswith(prompt[:500]) and prompts[i].endswith(prompt[-500:])
