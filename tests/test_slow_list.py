"""A line of slow.txt that names no test would let its test back into `make test` unseen."""

import pytest
import slow_list


def test_every_line_names_a_test():
    class Found:
        def pytest_collection_finish(self, session):
            self.names = set().union(*map(slow_list.names, session.items))

    found, lines = Found(), slow_list.lines()
    files = {str(slow_list.TESTS / line.partition("::")[0]) for line in lines}
    arguments = ["--collect-only", "-o", "addopts=", "-p", "no:terminal", *sorted(files)]
    assert pytest.main(arguments, [found]) == 0
    assert not lines - found.names
