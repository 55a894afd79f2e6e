"""The HTML that every report shares: the frame of the page and small elements.

Everything is inline, so a report is one file that can be mailed and opened without a network.
"""

import base64
import html
from collections.abc import Sequence

import numpy as np

from lapa_jax.evaluation import figures, style

escape = html.escape


def document(title: str, lead: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """A whole page from (id, title, body HTML) sections; title, lead and footer are plain text."""
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    bodies = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{body}</section>'
        for key, name, body in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{style.SHEET}</style></head><body>"
        f'<header><div><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></div></header>'
        f"<nav><div>{links}</div></nav><main>{bodies}</main>"
        f"<footer>{escape(footer)}</footer></body></html>\n"
    )


def absent(what: str) -> str:
    """Stands where a figure will be once its stage has run."""
    return f'<p class="absent">{escape(what)}: not run yet</p>'


def figure(body: str, caption: str, panel: bool = True) -> str:
    """A captioned figure; `body` is HTML, `caption` plain text."""
    inner = f'<div class="panel">{body}</div>' if panel else body
    return f"<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>"


def data_image(content: bytes, kind: str, alt: str) -> str:
    """An <img> that carries its own bytes; `kind` is png or gif."""
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{encoded}">'


def frame(image: np.ndarray, alt: str, scale: int = 2) -> str:
    """uint8[H, W, 3] as an <img>."""
    return data_image(figures.png(image, scale), "png", alt)


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Equal columns of HTML cells under plain-text headings."""
    cells = [f'<div class="head">{escape(heading)}</div>' for heading in headings]
    cells += [f"<div>{cell}</div>" for row in rows for cell in row]
    columns = f"grid-template-columns:repeat({len(headings)},minmax(0,1fr))"
    return f'<div class="grid" style="{columns}">{"".join(cells)}</div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; headings are plain text, cells are HTML."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def meter(fraction: float) -> str:
    """A bar filled to `fraction` of its width."""
    filled = 100 * min(max(fraction, 0.0), 1.0)
    return f'<div class="meter"><i style="width:{filled:.1f}%"></i></div>'
