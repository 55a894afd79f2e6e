"""The alarm of stage 1: says that the latent actions collapsed, and what it likely comes from.

The cure is in the quantisers (`models/quantizers/codebook.py` restarts dead codes from current data,
`whiten.py` re-centres z) and works at every step without asking; the alarm tells when that is not enough.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import jax

from lapa_jax import metrics

Values = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Limits:
    """When the alarm goes off.

    Attributes:
        share: a position whose perplexity is below this share of the codes has collapsed.
        after: training steps that it may take to get going.
    """

    share: float = 0.25
    after: int = 100


@dataclasses.dataclass(frozen=True)
class Cause:
    """What may be behind a collapse: the sign of it in the metrics, and what to say."""

    sign: Callable[[Values], bool]
    says: str


CAUSES = (
    Cause(
        lambda v: v.get("copy_mse", 1.0) < 1e-5,
        "the two frames hardly differ (copy_mse {copy_mse:.2g}): raise data.gap, or leave out still clips",
    ),
    Cause(
        lambda v: v["z_std"] < 1e-5,
        "the encoder says the same for every pair (z_std {z_std:.2g}): lower optimizer.learning_rate, start anew",
    ),
    Cause(
        lambda v: v.get("quantise_error", 0.0) > 1.5,
        "the codebook is far from the data (quantise_error {quantise_error:.3g} of the variance of z): "
        "restart it from data with model.quantizer=nsvq or vq, or model.quantizers.NAME.revive=data",
    ),
    Cause(
        lambda v: v["z_offset"] > 10.0,
        "all pairs share an offset {z_offset:.3g} times their spread: re-centre it with fsq or vq, which whiten",
    ),
    Cause(
        lambda v: v.get("codebook_grad_norm", 1.0) < 1e-12,
        "no gradient reaches the codebook: is the loss weight of the quantizer 0?",
    ),
    Cause(
        lambda v: True,
        "few codes win all pairs; restarts so far: {revived:.0f}. If they do not help, train with fewer codes or "
        "more varied video",
    ),
)
"""Tried in order; the last is for what no other explains."""


def diagnose(values: Values, num_codes: int, limits: Limits = Limits()) -> str | None:
    """One line if the metrics of a training step (see `metrics.code_health`) show a collapse; else None."""
    worst = values.get("perplexity_worst")
    if worst is None or worst >= max(limits.share * num_codes, 1.5):
        return None
    cause = next(cause for cause in CAUSES if cause.sign(values))
    says = cause.says.format(**{"revived": 0.0, **values})
    return f"latent actions collapsed: {worst:.2g} of {num_codes} codes in use at the worst position; {says}"


class Watched:
    """A `metrics.Writer` that also raises the alarm: on the console and in `alarms.jsonl`.

    It says when a collapse begins, when its likely cause changes, and when it is over.
    """

    def __init__(self, writer: metrics.Writer, workdir: str | pathlib.Path, num_codes: int, limits: Limits):
        self._writer, self._num_codes, self._limits = writer, num_codes, limits
        self._path = pathlib.Path(workdir) / "alarms.jsonl"
        self._cause: str | None = None

    def begin(self, step: int, total: int) -> None:
        self._writer.begin(step, total)

    def write(self, step: int, values: Values, split: str = "train") -> None:
        self._writer.write(step, values, split)
        if split != "train" or step < self._limits.after:
            return
        alarm = diagnose(values, self._num_codes, self._limits)
        cause = None if alarm is None else alarm.split("; ", 1)[1].split("(")[0]
        if cause != self._cause:
            over = "latent actions recovered: all positions use their codes"
            self._tell(step, f"ALARM: {alarm}" if alarm else over)
            self._cause = cause

    def _tell(self, step: int, text: str) -> None:
        if jax.process_index():
            return
        print(f"[laq] step {step}  {text}", flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "alarm": text}) + "\n")
