"""The one exception a user is meant to read: it names the thing and says what to do."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input from the person who launched a program (a path, a config value, a dataset).

    Programs print its message as one line and exit with status 2; see `in_one_line`.
    """


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """A `UserError` inside ends the program: its message on stderr, exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
