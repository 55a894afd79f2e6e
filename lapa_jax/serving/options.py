"""What whoever starts a server decides; keys of experiments/configs/serve.py bear the same names."""

import dataclasses
from collections.abc import Mapping

from lapa_jax import errors


@dataclasses.dataclass(frozen=True)
class Options:
    """
    Attributes:
        token: every request must bear it; None: none is asked for.
        hosts: names under which browsers may reach it; None: any. A page of somebody's can give itself a name that
            leads to this machine, and only the name tells it from ours.
        names: names in observations -> the policy's own, beside `fields.ALIASES`; "": left out.
        max_batch: observations of one call of the policy.
        max_wait_ms: how long a request waits for others to share a call with.
        max_queue: requests that wait for a call; one more is told "busy".
        max_message_mb: size of a message or body.
        max_pixels: of an image.
        max_connections: at the same time; one more is told so.
        header_s, body_s: for all of a request's headers, and for all of a body or message, once it has begun.
        request_s: from a request's arrival to its answer.
        idle_s: a websocket that asks for nothing for so long is closed.
        grace_s: what a server that was told to end gives running requests.
    """

    token: str | None = None
    hosts: tuple[str, ...] | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_batch: int = 8
    max_wait_ms: float = 2.0
    max_queue: int = 128
    max_message_mb: float = 16.0
    max_pixels: int = 4096 * 4096
    max_connections: int = 128
    header_s: float = 10.0
    body_s: float = 20.0
    request_s: float = 30.0
    idle_s: float = 600.0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "max_wait_ms" else 1e-3
            if isinstance(value, int | float) and not value >= least:
                raise errors.UserError(f"{field.name}={value}: it must be at least {least}")
        if self.token is not None and not self.token.strip():
            raise errors.UserError("the token is empty: leave it out, or give one")

    @property
    def max_bytes(self) -> int:
        return int(self.max_message_mb * 2**20)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batches that the policy is called with: powers of 2 and `max_batch`; others are filled up to the next."""
        powers = [2**i for i in range(self.max_batch.bit_length()) if 2**i < self.max_batch]
        return (*powers, self.max_batch)


def parse_names(text: str) -> dict[str, str]:
    """ "theirs=ours,other=" -> {"theirs": "ours", "other": ""}.

    Raises:
        UserError: it is not of this form.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [name for name, sign, _ in pairs if not sign or not name.strip()]
    if wrong:
        raise errors.UserError(f"names={text}: give NAME=OURS, or NAME= to leave it out; commas between")
    return {name.strip(): ours.strip() for name, _, ours in pairs}
