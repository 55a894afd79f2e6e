"""slow.txt names tests that there are: a line that names none would let its test back into `make test` unseen."""

import conftest
import pytest


def test_every_line_names_a_test():
    class Found:
        def pytest_collection_finish(self, session):
            self.names = {f"{one.path.relative_to(conftest.TESTS).as_posix()}::{one.name}" for one in session.items}

    found, lines = Found(), conftest.slow_tests()
    files = {str(conftest.TESTS / line.partition("::")[0]) for line in lines}
    assert pytest.main(["--collect-only", "-o", "addopts=", "-p", "no:terminal", *sorted(files)], [found]) == 0
    names = found.names | {name.partition("[")[0] for name in found.names}
    assert not lines - names
