"""What can go wrong, with a code for programs and a sentence for people."""

import json


class ServerError(RuntimeError):
    """The server refused or could not answer; no action came back.

    Attributes:
        code: one of the codes of docs/serving.md, such as "bad_observation" or "busy".
        sentence: what was wrong and what to do.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code, self.sentence = code, sentence

    @classmethod
    def of_text(cls, text: str) -> "ServerError":
        """From what a server says: JSON of ours, or the traceback that other servers of this protocol send."""
        try:
            found = json.loads(text)
            return cls(str(found["code"]), str(found["error"]))
        except (ValueError, TypeError, KeyError):
            return cls("policy_failed", text.strip() or "the server gave no reason")


class Unreachable(ServerError, ConnectionError):
    """No server there, or the connection to it was lost; its code is "unreachable", "closed" or "no_answer"."""
