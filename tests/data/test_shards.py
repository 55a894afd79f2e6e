"""Batches that are read ahead and computed ahead, and files that are whole or not there."""

import threading

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import shards


class Later:
    """What a device is still computing: it is waited for when it becomes an array."""

    def __init__(self, rows, heard):
        self.rows, self.heard = rows, heard

    def __array__(self, dtype=None, copy=None):
        self.heard.append(f"wait {self.rows[0, 0]}")
        return self.rows


def test_the_next_call_is_made_before_a_result_is_waited_for():
    heard = []

    def call(rows):
        heard.append(f"call {rows[0, 0]}")
        return Later(rows, heard)

    found = shards.results(call, lambda items: (np.array(items),), [[i] for i in range(5)], 2, 1, shards.silent)
    assert [rows.tolist() for rows in found] == [[[0], [1]], [[2], [3]], [[4]]]
    assert heard == ["call 0", "call 2", "wait 0", "call 4", "wait 2", "wait 4"]


def test_batches_are_read_by_other_threads_and_not_all_at_once():
    threads, begun = set(), []

    def read(batch):
        threads.add(threading.get_ident())
        begun.append(batch)
        return batch

    found = shards.ahead(read, range(50), num_threads=2)
    assert next(found) == 0 and len(begun) <= 4
    assert list(found) == list(range(1, 50)) and threading.get_ident() not in threads


def test_no_item_is_no_call():
    assert list(shards.results(None, None, [], 4, 1, shards.silent)) == []


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(ValueError, match="half way"), shards.whole(path) as partial:
        partial.write_bytes(b"half")
        raise ValueError("half way")
    assert list(tmp_path.iterdir()) == []
    with shards.whole(path) as partial:
        partial.write_bytes(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    kind = shards.Kind("done.json", "numbers", "counting", "count")
    with pytest.raises(errors.UserError, match="cannot make the folder .*file/numbers"):
        kind.fill(tmp_path / "file" / "numbers", {}, [], 0, 1, shards.silent)
