"""Files of decisions that others change meanwhile: by appending, or by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from review_labels import write_pair

from a2s.data.index import Index
from a2s.errors import DataError
from a2s.labels import review
from a2s.labels.review import Decision, append_decisions, read_decisions


def decided(key: str, verdict: str = "accepted") -> Decision:
    return Decision(key, verdict, None, review.now())  # type: ignore[arg-type]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_pair(tmp_path, count=4, width=12, height=8)[0]


@pytest.fixture
def keys(labels: Path) -> list[str]:
    return Index.load(labels).keys.to_pylist()


def test_a_file_that_is_corrected_by_hand_is_read_again(labels: Path, keys: list[str]) -> None:
    path = labels / review.FILE_NAME
    append_decisions(labels, [decided(keys[0]), decided(keys[1]), decided(keys[2])])
    log = review.DecisionLog(labels)
    assert log.refresh() == set(keys[:3])
    first, second, third = path.read_bytes().splitlines(keepends=True)

    def write(*lines: bytes) -> None:
        # In place, as some editors do.
        with path.open("rb+") as file:
            file.truncate()
            file.write(b"".join(lines))

    write(first, third)
    assert log.refresh() == {keys[1]}
    assert set(log.decisions) == {keys[0], keys[2]}
    write(first, third.replace(b"accepted", b"rejected"))
    assert log.refresh() == {keys[2]}
    assert log.decisions[keys[2]].verdict == "rejected"
    write(first.replace(b"review", b"labelstudio"), second, third)
    assert log.refresh() == set(keys[:3])
    assert log.decisions[keys[0]].source == "labelstudio"

    # A wrong line is named until it is corrected; nothing else is lost.
    wrong = second.replace(b"accepted", b"fixed")
    append_decisions(labels, [decided(keys[3])])
    with path.open("ab") as file:
        file.write(wrong + third.replace(b"accepted", b"rejected"))
    for _ in range(2):
        with pytest.raises(DataError, match="has no mask"):
            log.refresh()
        assert log.decisions[keys[1]].verdict == log.decisions[keys[2]].verdict == "accepted"
    write(*path.read_bytes().replace(wrong, b"").splitlines(keepends=True))
    assert log.refresh() == set(keys[2:4])
    assert log.decisions[keys[2]].verdict == "rejected"


def test_appending_returns_what_others_decided_too(labels: Path, keys: list[str]) -> None:
    log = review.DecisionLog(labels)
    append_decisions(labels, [decided(keys[1])])
    assert log.append([decided(keys[0])]) == set(keys[:2])
    append_decisions(labels, [decided(keys[2])])
    assert log.undo([keys[0]]) == {keys[0], keys[2]}
    assert log.refresh() == set()


def test_what_others_decided_meanwhile_is_not_replaced(labels: Path, keys: list[str]) -> None:
    log, theirs = review.DecisionLog(labels), decided(keys[0], "rejected")
    append_decisions(labels, [theirs])
    with pytest.raises(review.SupersededError, match="meanwhile"):
        log.append([decided(keys[0])], held={keys[0]: None})
    with pytest.raises(review.SupersededError, match="meanwhile"):
        log.undo([keys[0]], held={keys[0]: decided(keys[0])})
    # What is read on the way is still reported.
    assert log.refresh() == {keys[0]}
    assert read_decisions(labels) == {keys[0]: theirs}
    log.append([decided(keys[0])], held={keys[0]: theirs})
    assert read_decisions(labels)[keys[0]].verdict == "accepted"


def test_a_key_press_searches_no_labels(
    labels: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, searched = review.DecisionLog(labels), []
    log.rows[keys[0]] = 0
    monkeypatch.setattr(Index, "rows_of", lambda self, some: searched.append(some))
    log.append([decided(keys[0])])
    log.append([decided(keys[0], "rejected")])
    log.undo([keys[0]])
    log.refresh()
    assert searched == []
    assert log.decisions[keys[0]].verdict == "accepted"
