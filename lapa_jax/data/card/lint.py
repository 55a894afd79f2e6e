"""What is wrong with a dataset, or worth knowing: thresholds, and the checks of episodes and frames.

Pure functions from numbers to findings; `samples` draws the frames, `lint_arrays` has the checks of
actions and proprio, and `card` puts everything together.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

# Thresholds of all checks; each message names its own.
FAR = 5.0  # widths of q01..q99 outside of it that make a value an outlier
FEW_ROWS = 1000  # with fewer, q01 and q99 rest on a handful of values
SATURATED = 0.05  # share of values at one end of the range
SAME = 1e-4  # share of the range within which values count as its end
DISCRETE = 16  # a dimension with no more distinct values is a choice and cannot be saturated
TWO_VALUED = 0.9  # share of values near one of two ends that makes a dimension two-valued
NEAR_END = 0.05  # share of the range that is near an end
IMBALANCED = 0.05  # share of the rarer of two values
IDLE = 0.01  # share of a dimension's scale, max(|q01|, |q99|), below which it does not move
IDLE_STEPS = 0.2  # share of steps in which nothing moves
STATIC = 0.002  # share of pixels that change below which a pair is static; as `motion.Filters.static`
STATIC_PAIRS = 0.2  # share of pairs that are static
EMPTY = 2.0  # std of the pixels of each colour, 0..255, below which a frame shows nothing
SHORT = 2  # steps that an episode needs for one pair
LONG = 10.0  # medians of the lengths above which an episode is suspiciously long

LEVELS = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: "error": training fails or learns garbage; "warning": look at it before training;
            "note": worth knowing.
        key: name of the check.
        message: one line.
    """

    level: Literal["error", "warning", "note"]
    key: str
    message: str


def rate(steps_a_second: float | None) -> list[Finding]:
    """Whether gaps in seconds have a meaning."""
    if steps_a_second is not None:
        return []
    message = "how many steps a second is not known: give --rate (data.rate), or add the dataset to the table"
    return [Finding("warning", "rate", message)]


def lengths(steps: np.ndarray) -> list[Finding]:
    """int64[E], steps of each episode."""
    found = []
    if len(short := np.flatnonzero(steps < SHORT)):
        message = f"{len(short)} of {len(steps)} episodes: fewer than {SHORT} steps, so no pair"
        found.append(Finding("warning", "short", f"{message}; the first is episode {short[0]}"))
    median = float(np.median(steps)) if len(steps) else 0.0
    if len(long := np.flatnonzero(steps > LONG * max(median, 1))):
        message = f"{len(long)} of {len(steps)} episodes: longer than {LONG:g} medians ({median:g} steps)"
        found.append(Finding("warning", "long", f"{message}; episode {long[0]} has {steps[long[0]]}"))
    return found


def instructions(texts: Sequence[str]) -> list[Finding]:
    """One text an episode."""
    missing = [i for i, text in enumerate(texts) if not text.strip()]
    distinct = {text for text in texts if text.strip()}
    if missing:
        message = f"{len(missing)} of {len(texts)} episodes: no instruction; the first is episode {missing[0]}"
        return [Finding("warning", "instructions", f"{message}; the others have {len(distinct)} distinct ones")]
    if len(distinct) == 1 and len(texts) > 1:
        message = f"all {len(texts)} episodes have the same instruction, from which no policy learns to listen"
        return [Finding("note", "instructions", message)]
    return []


def duplicates(episodes: np.ndarray, checksums: np.ndarray) -> list[Finding]:
    """int64[K] numbers of episodes; int64[K, ...] what is compared of each, as `samples.checksums` has it."""
    if not len(checksums):
        return []
    _, first, inverse = np.unique(checksums, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    if not len(repeated := np.flatnonzero(original != np.arange(len(checksums)))):
        return []
    again, earlier = episodes[repeated[0]], episodes[original[repeated[0]]]
    message = f"{len(repeated)} of {len(checksums)} episodes: the length and the frames of an earlier one"
    return [Finding("warning", "duplicates", f"{message}; episode {again} repeats episode {earlier}")]


def damaged(records: Sequence[str]) -> list[Finding]:
    """What an index left out, one line a record."""
    if not records:
        return []
    message = f"damaged and left out or cut short: {len(records)}, the first: {records[0]}"
    return [Finding("error", "damaged", f"{message}; fetch it again, or train with data.on_damage='skip'")]


def frames(camera: str, spread: np.ndarray, broken: Sequence[str]) -> list[Finding]:
    """What sampled frames of one camera look like.

    Args:
        spread: float64[F], see `samples.spread`, of the frames that can be decoded.
        broken: for each of the others, why not.
    """
    found, total = [], len(spread) + len(broken)
    if broken:
        message = f"{camera}: {len(broken)} of {total} sampled frames cannot be decoded, the first: {broken[0]}"
        found.append(Finding("error", "undecodable", message))
    if empty := int((spread < EMPTY).sum()):
        message = f"{camera}: {empty} of {total} sampled frames are empty"
        limit = f"black or of one colour, with a std below {EMPTY:g} of 255"
        found.append(Finding("warning", "empty", f"{message} ({limit})"))
    return found


def pairs(change: np.ndarray, apart: str) -> list[Finding]:
    """float64[P], see `samples.change`, of pairs that are as far apart as the words `apart` say."""
    still = change < STATIC
    if not len(still) or still.mean() <= STATIC_PAIRS:
        return []
    message = (
        f"{int(still.sum())} of {len(still)} sampled pairs {apart} apart are static: less than {percent(STATIC)}"
    )
    remedy = f"above {percent(STATIC_PAIRS)} of the pairs, use a larger gap or leave still episodes out"
    return [Finding("warning", "static", f"{message} of their pixels change; {remedy}")]


def percent(share: float) -> str:
    """A share in words: "0.2 %", "35 %"."""
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"
