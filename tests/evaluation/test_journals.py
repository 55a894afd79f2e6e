"""Episodes on disk as they end."""

import json
import logging

import pytest

from lapa_jax import errors
from lapa_jax.evaluation import journals
from lapa_jax.evaluation.filming import Episode

EPISODES = [
    Episode("push", seed, f"push the red block {seed} é", seed % 2 == 0, 9 + seed, 0.25, None if seed else "a.gif")
    for seed in range(4)
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "lapa.jsonl"
    with journals.Journal(path, "one") as journal:
        for episode in EPISODES:
            journal.add(episode)
    return path


def read(path, source="one"):
    with journals.Journal(path, source) as journal:
        return list(journal.episodes.values())


def test_what_was_added_is_there(path):
    assert read(path) == EPISODES and read(path) == EPISODES
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"source": "one"} and lines[1]["length"] == 9 and len(lines) == 5


def test_an_episode_is_on_disk_before_the_next_begins(path):
    with journals.Journal(path, "one") as journal:
        journal.add(Episode("point", 0, "", False, 1, 0.1))
        assert json.loads(path.read_text().splitlines()[-1])["family"] == "point"


def test_another_policy_begins_anew(path, caplog):
    with caplog.at_level(logging.WARNING):
        assert read(path, "two") == []
    assert "its 4 episodes are of another policy" in caplog.text
    assert path.read_text() == '{"source": "two"}\n'


@pytest.mark.parametrize("cut", [1, 2, 20, "rubbish\n", "{}\n", '{"a": 1', "[1]\n"])
def test_a_damaged_last_line_is_dropped(path, cut, caplog):
    text = path.read_text()
    path.write_text(text[:-cut] if isinstance(cut, int) else text + cut)
    with caplog.at_level(logging.WARNING):
        assert read(path) == (EPISODES[:-1] if isinstance(cut, int) else EPISODES)
    assert "its last line is damaged" in caplog.text
    caplog.clear()
    read(path)
    assert not caplog.text


def test_a_kill_at_any_byte_loses_one_episode_at_most(path):
    text = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
    for cut in range(0, len(text), 7):
        path.write_bytes(text[:cut])
        assert read(path) == EPISODES[: max(sum(end <= cut for end in ends) - 1, 0)]


@pytest.mark.parametrize("line", ["rubbish", "{}", json.dumps({**vars(EPISODES[0]), "success": 1}), ""])
def test_damage_elsewhere_is_an_error(path, line):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(errors.UserError, match=r"lapa.jsonl: line 3 is damaged"):
        read(path)
