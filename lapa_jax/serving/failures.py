"""Everything that a client can be told went wrong: a code for programs, a sentence for people."""

import dataclasses
import json

from lapa_jax import errors


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a code is said over HTTP and over a websocket."""

    status: int
    close: int


KINDS = {
    "bad_message": Kind(400, 1011),
    "unauthorized": Kind(401, 1008),
    "forbidden_origin": Kind(403, 1008),
    "not_found": Kind(404, 1008),
    "method_not_allowed": Kind(405, 1008),
    "too_slow": Kind(408, 1008),
    "idle": Kind(408, 1001),
    "too_large": Kind(413, 1009),
    "unsupported": Kind(415, 1003),
    "bad_observation": Kind(422, 1011),
    "internal": Kind(500, 1011),
    "policy_failed": Kind(500, 1011),
    "busy": Kind(503, 1011),
    "too_many_connections": Kind(503, 1013),
    "warming_up": Kind(503, 1013),
    "shutting_down": Kind(503, 1001),
    "too_late": Kind(504, 1011),
}
"""code -> HTTP status and close code. 1011 after an error message is what openpi's servers send and its clients
expect; other numbers say what they mean by RFC 6455. docs/serving.md has the same table in words."""

PASSES = ("busy", "too_many_connections", "warming_up", "shutting_down")
"""What may be tried again in a second."""


class Failure(errors.UserError):
    """One request ends with it; the server goes on.

    Attributes:
        code: a key of `KINDS`.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.kind = code, KINDS[code]

    def body(self) -> str:
        """JSON of code and sentence, one line: the body of a response, or a text message."""
        return json.dumps({"code": self.code, "error": str(self)})

    def reason(self) -> str:
        """For a close frame, which has room for 123 bytes."""
        return f"{self.code}: {self}".encode()[:120].decode(errors="ignore")

    def headers(self) -> dict[str, str]:
        """Of the response."""
        extra = {"retry-after": "1"} if self.code in PASSES else {}
        if self.code == "unauthorized":
            extra["www-authenticate"] = 'Basic realm="policy server"'  # beside others Chromium does not ask for it
        return {"content-type": "application/json", **extra}
