"""The one exception a user is meant to read: it names the thing and says what to do."""


class UserError(ValueError):
    """Bad input from the person who launched a program (a path, a config value, a dataset).

    Programs print its message as one line and exit with status 2; see `experiments/launch.py`.
    """
