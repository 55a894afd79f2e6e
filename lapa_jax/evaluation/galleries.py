"""The report's sections that show frames: reconstructions, what each code means, code transfer."""

from typing import Any

import numpy as np

from lapa_jax.evaluation import figures, page

MAX_STRIPS = 6
MAX_PAIRS = 4
Arrays = dict[str, np.ndarray]


def reconstructions(gallery: Arrays | None, seconds: float | None) -> str:
    """x1, x2, decoded x2 and what is left to explain, one held-out pair a row."""
    if gallery is None or "reconstruction" not in gallery:
        return page.absent("Stage 1, reconstructions")
    changes = ["|later − first|", "|later − decoded|"]
    headings = ["first frame", later(seconds), "decoded", *changes, "codes"]
    rows = [_strip(gallery, row) for row in range(min(MAX_STRIPS, len(gallery["frame"])))]
    caption = (
        "Held-out frame pairs. The decoder sees the first frame and the codes only. The fourth "
        "column is the change it had to explain, the fifth what it missed (same colour scale, "
        "brighter is larger): the fifth darker than the fourth means that the codes carry motion."
    )
    return page.figure(page.grid(headings, rows), caption)


def later(seconds: float | None) -> str:
    """Names the second frame of a pair, `seconds` after the first."""
    return "later frame" if seconds is None else f"{seconds:.1f} s later"


def _strip(gallery: Arrays, row: int) -> list[str]:
    first, second, decoded = (
        gallery[name][row] for name in ("frame", "next_frame", "reconstruction")
    )
    codes = " ".join(str(code) for code in gallery["codes"][row])
    return [
        page.frame(first, f"pair {row}: first frame"),
        page.frame(second, f"pair {row}: later frame"),
        page.frame(decoded, f"pair {row}: decoded from first frame and codes"),
        page.frame(figures.difference(second, first), f"pair {row}: change between the frames"),
        page.frame(figures.difference(second, decoded), f"pair {row}: error of the decoder"),
        f'<div class="head"><code>{page.escape(codes)}</code></div>',
    ]


def codes(gallery: Arrays | None, summary: dict[str, Any] | None) -> str:
    """Mean effector motion of each code, how often it is used, and pairs it was given to."""
    if gallery is None or "code_motion" not in gallery:
        return page.absent("Stage 1, code gallery")
    motion, reach = gallery["code_motion"], figures.compass_reach(gallery["code_motion"])
    compass = figures.compass(motion, gallery["code_motion_std"], reach)
    text = (
        "<p>Each arrow is the mean displacement of the effector over the held-out pairs that "
        "received this code. The model was never told where the effector is.</p>"
        f'<p class="count">Outer circle: {100 * reach:.3g} cm. Right is +x, up is +y.</p>'
    )
    overview = f'<div class="panel overview">{compass}<div>{text}</div></div>'
    usage = (summary or {}).get("usage")
    rows = "".join(_code(gallery, code, usage, reach) for code in range(len(motion)))
    caption = (
        "One row a code: its share of held-out pairs, its mean motion (the shaded ellipse is one "
        "standard deviation) and example pairs, earlier frame left, later frame right."
    )
    return overview + page.figure(rows, caption)


def _code(gallery: Arrays, code: int, usage: list[float] | None, reach: float) -> str:
    motion, std = gallery["code_motion"], gallery["code_motion_std"]
    share = "" if usage is None else f"{page.meter(usage[code])}{100 * usage[code]:.1f} % of pairs"
    used = np.isfinite(motion[code]).all()
    moved = _motion_words(motion[code]) if used else "never used"
    label = f'<div><b>Code {code}</b><div class="small">{share}<br>{moved}</div></div>'
    compass = figures.compass(motion, std, reach, highlight=code)
    return f'<div class="code">{label}{compass}{_pairs(gallery, code)}</div>'


def _motion_words(motion: np.ndarray) -> str:
    x, y = (100 * float(value) for value in motion)
    sideways, upright = "right" if x >= 0 else "left", "up" if y >= 0 else "down"
    return f"{abs(x):.1f} cm {sideways}<br>{abs(y):.1f} cm {upright}"


def _pairs(gallery: Arrays, code: int) -> str:
    if "code_examples_frame" not in gallery:
        return ""
    first, second = gallery["code_examples_frame"][code], gallery["code_examples_next"][code]
    count = len(first)
    if "code_examples_count" in gallery:
        count = min(count, int(gallery["code_examples_count"][code]))
    pairs = "".join(
        f'<div class="pair">{page.frame(first[i], f"code {code}, example {i}: before")}'
        f"{page.frame(second[i], f'code {code}, example {i}: after')}</div>"
        for i in range(min(count, MAX_PAIRS))
    )
    return f'<div class="pairs">{pairs}</div>' if pairs else '<div class="small">no examples</div>'


def transfer(gallery: Arrays | None) -> str:
    """The same code decoded from different first frames."""
    if gallery is None or "swap_decoded" not in gallery:
        return page.absent("Stage 1, code transfer")
    first, decoded = gallery["swap_first"], gallery["swap_decoded"]
    headings = ["first frame", *(f"code {code}" for code in range(decoded.shape[1]))]
    rows = [
        [page.frame(first[s], f"scene {s}: first frame")]
        + [
            page.frame(decoded[s, k], f"scene {s}: decoded with code {k}")
            for k in range(decoded.shape[1])
        ]
        for s in range(len(first))
    ]
    caption = (
        "The same code applied to different first frames. A code that means a motion moves the "
        "effector the same way down its column, whatever the scene."
    )
    return page.figure(page.grid(headings, rows), caption)
