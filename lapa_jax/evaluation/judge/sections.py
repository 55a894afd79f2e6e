"""The sections of the report: each turns the results of one dataset and its pictures into HTML."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax.evaluation import figures, galleries, page
from lapa_jax.evaluation.judge import charts
from lapa_jax.evaluation.judge.outcome import KEY
from lapa_jax.evaluation.judge.pictures import Pictures

Results = Mapping[str, Any]


def missing(what: str, reason: str) -> str:
    """Stands where a measure could not be taken."""
    return f'<p class="absent">{page.escape(what)}: not measured. {page.escape(reason)}</p>'


def codes_in_use(results: Results, _: Pictures) -> str:
    """How often each code is used, at each position."""
    found, spread = results["usage"], results["spread"]
    directions = (
        f"<p>Effective directions: z {spread['z']['directions']:.1f} of {spread['z']['dims']}, codewords "
        f"{spread['codewords']['directions']:.1f} of {spread['codewords']['dims']}.</p>"
    )
    if KEY in found:
        return missing("Usage", found[KEY]) + directions
    joint = found["joint"]
    each = ", ".join(f"{p:.1f}" for p in found["perplexity"][:16])
    words = (
        f"<p>Perplexity by position: {each}. {found['never_used']} codes were never used. Sequences: "
        f"{joint['seen']} "
        f"different ones among {joint['pairs']} pairs, perplexity {joint['perplexity']:.1f}, of 2 to the power of "
        f"{joint['possible_bits']:.0f} possible.</p>"
    )
    shares, caption = np.asarray(found["usage"])[:16], "Share of each code; the dashed line is an even share."
    if found["usage_sorted"]:
        caption = f"Shares of the {shares.shape[1]} most used codes over all positions, in order."
    return page.figure(charts.usage(shares, "code usage", not found["usage_sorted"]), caption) + words + directions


def reconstruction(results: Results, pictures: Pictures) -> str:
    """Errors beside those of copying, and examples."""
    found = results["images"]
    names = [name for name in ("psnr", "ssim", "lpips", "cosine", "mse") if name in found]
    rows = [
        [name.upper() if name != "cosine" else name, _number(found[name]), _number(found[f"copy_{name}"])]
        for name in names
    ]
    low, high = found["gain_interval"]
    caption = (
        f"Reconstructions from hard codes beside a copy of the first frame, over all pairs. The error is "
        f"{found['gain_db']:.2f} dB below that of copying (95 % interval {low:.2f} to {high:.2f}), and smaller in "
        f"{100 * found['better_share']:.0f} % of the pairs. In pairs where nothing moves a copy is perfect."
    )
    numbers = page.figure(page.table(["", "reconstruction", "copy of the first frame"], rows), caption)
    return numbers + galleries.reconstructions(dict(pictures.strips), None)


def probes(results: Results, _: Pictures) -> str:
    """R2 of probes from the latent action and from its controls."""
    found = results["probes"]
    if KEY in found:
        return missing("Probes", found[KEY])
    names = {
        "codes": "codes",
        "codewords": "codewords",
        "z": "z, before quantisation",
        "flow": "optical flow (bound)",
        "first_frame": "first frame (control)",
        "shuffled": "shuffled codes (control)",
    }
    rows = [
        (name, None, None, None)
        if KEY in found[key]
        else (name, found[key]["linear"]["r2"], found[key]["linear"]["interval"], found[key]["mlp"]["r2"])
        for key, name in names.items()
    ]
    target = found["target"]
    by_column = ", ".join(
        f"{page.escape(str(c))} {r:.2f}"
        for c, r in zip(target["columns"], found["latent"]["linear"]["columns"], strict=True)
    )
    caption = (
        f"R² of a linear probe (dot, with its 95 % interval over episodes) and of an MLP (ring) to "
        f"{target['name']}. What the first frame can guess is no evidence of codes carrying motion. "
        f"Optical flow sums the "
        "frames in between and is what can be seen at all."
    )
    return page.figure(charts.dots(rows, -0.25, 1.0, "R2 of probes"), caption) + f"<p>By column: {by_column}.</p>"


def control(results: Results, _: Pictures) -> str:
    """Does the decoder obey?"""
    found = results["control"]
    low, high = found["interval"]
    psnr = (
        f" PSNR is {found['psnr']:.2f} dB with the right code and {found['random_psnr']:.2f} dB with a random one."
        if "psnr" in found
        else ""
    )
    return (
        f"<p>The right code rebuilds the later frame <b>{found['delta_db']:.2f} dB</b> better than a "
        f"random one that other "
        f"pairs use (95 % interval {low:.2f} to {high:.2f}), and it is the better one in "
        f"{100 * found['positive_share']:.0f} % of the pairs.{psnr}</p>"
    )


def swap(results: Results, pictures: Pictures) -> str:
    """Codes of one clip on the first frame of another."""
    found = results["swap"]
    if KEY in found:
        numbers = missing("The motion of swapped codes", found[KEY])
    else:
        meter = found["meter"]
        rows = [
            ("own first frame (ceiling)", found["ceiling_cosine"], None, None),
            ("first frame of another clip", found["cosine"], found["interval"], None),
            ("motion of another A (chance)", found["chance_cosine"], None, None),
            (f"the meter on real pairs ({meter['kind']})", meter["cosine"], None, None),
        ]
        caption = (
            f"Mean cosine between the motion of clip A and what is read off a frame decoded with A's codes, "
            f"{found['pairs']} pairs. {100 * found['of_ceiling']:.0f} % of what own reconstructions "
            f"show survives the swap. "
            f"R²: {found['r2']:.2f} swapped, {found['ceiling_r2']:.2f} own, {found['chance_r2']:.2f} by chance, "
            f"{meter['r2']:.2f} for the meter on real pairs."
        )
        numbers = page.figure(charts.dots(rows, -0.25, 1.0, "action swap"), caption)
    return numbers + _swap_grid(pictures.swaps)


def _swap_grid(swaps: Mapping[str, np.ndarray]) -> str:
    if not swaps:
        return ""
    names = {"a_first": "A: first", "a_later": "A: later", "b_first": "B: first", "b_moved": "B with A's codes"}
    moved = "motion" in swaps
    rows = []
    reach = figures.compass_reach(swaps["motion"][:, :, :2].reshape(-1, 2)) if moved else 1.0
    for i in range(len(swaps["a_first"])):
        row = [page.frame(swaps[key][i], f"swap {i}, {name}") for key, name in names.items()]
        if moved:
            row.append(figures.compass(swaps["motion"][i, :, :2], np.zeros((2, 2)), reach))
        rows.append(row)
    heads = [*names.values(), *(["motion"] if moved else [])]
    caption = "A's codes applied to the first frame of B, from another episode: what moves should move as in A."
    if moved:
        caption += " Arrow 0 is the motion of A, arrow 1 what is read off the last frame."
    return page.figure(page.grid(heads, rows), caption)


def laws(results: Results, _: Pictures) -> str:
    """Reversal and composition, of each part of the latent action."""
    names = {"codes": "codes", "codewords": "codewords", "z": "z, before quantisation"}
    rows = []
    for kind, found in results["laws_by_kind"].items():
        if KEY in found:
            return missing("Reversal and composition", found[KEY])
        back, sums = found["reversal"], found["composition"]
        added = [sums[KEY], "", ""] if KEY in sums else [_number(sums[k]) for k in ("correlation", "cosine", "r2")]
        rows.append(
            [names[kind], *(_number(back[k]) for k in ("forward_r2", "r2", "flip")), *map(page.escape, added)]
        )
    gain = results["reversal"]["decoded_gain_db"]
    heads = ["read off", "R² forward", "R² reversed", "cosine to the opposite", "sum: correlation", "cosine", "R²"]
    caption = (
        "Reversed: what a linear probe reads off the code of (x2, x1), against the opposite of the "
        "true motion. Sum: the "
        "motions read off (x1, x2) and (x2, x3) added up, against that read off (x1, x3), a pair "
        "twice as far apart. Few "
        "codes have no name for a motion twice as long, which lowers R² and not the correlation. "
        "Decoding the reversed "
        f"code from x2 gives x1 {gain:.2f} dB better than copying x2."
    )
    return page.figure(page.table(heads, rows), caption)


def across(results: Results) -> str:
    """Overlap of codes, and swaps from dataset to dataset."""
    overlap, swapped = results["overlap"], results["swap"]
    parts = []
    if KEY in overlap:
        parts.append(missing("Overlap", overlap[KEY]))
    else:
        caption = (
            "1 - Jensen-Shannon divergence of the codes of two datasets, averaged over positions: 1 "
            "is the same use. The "
            "diagonal compares two halves of a dataset."
        )
        parts.append(page.figure(charts.matrix(overlap["names"], overlap["matrix"], "overlap"), caption))
    if KEY in swapped:
        parts.append(missing("Swap between datasets", swapped[KEY]))
    else:
        caption = (
            "Codes of the dataset in the row on first frames of the dataset in the column: cosine "
            "above chance between the "
            "motion in the image that results and that of the clip the codes come from."
        )
        parts.append(
            page.figure(charts.matrix(swapped["names"], swapped["matrix"], "codes of, on frames of"), caption)
        )
    return "".join(parts)


def gallery(results: Results, pictures: Pictures) -> str:
    """Mean motion of each code, examples, and each code applied to the same few frames."""
    codes = pictures.codes
    if not codes:
        return missing("Gallery", "the quantiser is continuous and has no codes")
    reach = figures.compass_reach(codes["mean"]) if "mean" in codes else 1.0
    rows = "".join(_code(codes, i, reach) for i in range(len(codes["index"])))
    heading = ""
    if "mean" in codes:
        target = results["probes"].get("target") or {"name": "motion", "unit": "", "columns": ("right", "up")}
        x, y = (page.escape(str(c)) for c in target["columns"][:2])
        heading = (
            f" Arrows: mean {target['name']}, right is {x}, up is {y}; outer circle {reach:g} {target['unit']}."
        )
    shown = len(codes["index"])
    caption = f"Pairs that were given each code, earlier frame left; the {shown} most used codes.{heading}"
    return page.figure(rows, caption) + _scenes(codes["index"], pictures.scenes)


def _code(codes: Mapping[str, np.ndarray], i: int, reach: float) -> str:
    share = f"{page.meter(codes['share'][i])}{100 * codes['share'][i]:.1f} %"
    label = f'<div><b>Code {codes["index"][i]}</b><div class="small">{share}</div></div>'
    compass = figures.compass(codes["mean"], codes["std"], reach, highlight=i) if "mean" in codes else "<div></div>"
    pairs = "".join(
        f'<div class="pair">{page.frame(codes["frame"][i, n], f"code {i} before")}'
        f"{page.frame(codes['next'][i, n], f'code {i} after')}</div>"
        for n in range(int(codes["count"][i]))
    )
    return f'<div class="code">{label}{compass}<div class="pairs">{pairs or "never used"}</div></div>'


def _scenes(index: np.ndarray, scenes: Mapping[str, np.ndarray]) -> str:
    heads = ["first frame", *(f"code {code}" for code in index)]
    rows = [
        [
            page.frame(first, "first frame"),
            *(page.frame(image, f"code {c}") for c, image in zip(index, moved, strict=True)),
        ]
        for first, moved in zip(scenes["first"], scenes["moved"], strict=True)
    ]
    caption = (
        "Each code at all positions, applied to the same frames. A code that means a motion moves "
        "all of them alike."
    )
    return page.figure(page.grid(heads, rows), caption)


def _number(value: float | None) -> str:
    return (
        "–" if value is None or not np.isfinite(value) else f"{value:.4g}" if abs(value) < 0.01 else f"{value:.2f}"
    )
