"""Standard names: which entry a dataset has, whether it is as the entry says, and its arrays through it.

`python -m lapa_jax.data.tables.standard` prints the table as docs/datasets.md shows it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lapa_jax import errors
from lapa_jax.data.stored import schema
from lapa_jax.data.tables import openx, openx_more
from lapa_jax.data.tables.entries import CAMERAS, OPS, Entry, Part

Schema = Mapping[str, tuple[tuple[int, ...], str]]
"""Raw key -> (shape of one step, dtype); "object" for text."""

TABLE: dict[str, Entry] = {entry.name: entry for entry in (*openx.ENTRIES, *openx_more.ENTRIES)}
ALIASES: dict[str, str] = {**openx.ALIASES, **openx_more.ALIASES}

_WRIST = re.compile(r"wrist|hand|gripper|palm")
_PROPRIO = ("observation/proprio", "observation/state")
_TEXTS = (
    "language_instruction",
    "observation/natural_language_instruction",
    "observation/language_instruction",
    "natural_language_instruction",
    "observation/instruction",
    "instruction",
    "episode_metadata/language_instruction",
)
_NATIVE = {camera: f"observation/{camera}" for camera in CAMERAS}
_KINDS = dict.fromkeys("OSU", "text") | dict.fromkeys("biu", "integer") | {"f": "number"}
_SHOWN = 12


def lookup(name: str) -> Entry | None:
    """The entry of the table by this name or alias."""
    name = name.strip()
    return TABLE.get(ALIASES.get(name, name))


def add(entry: Entry) -> Entry:
    """Puts an entry into the table of this process.

    Raises:
        UserError: there is one by that name.
    """
    if lookup(entry.name) is not None:
        raise errors.UserError(f"the table has an entry {entry.name!r} already; choose another name")
    TABLE[entry.name] = entry
    return entry


def apply(parts: Sequence[Part], raw: Mapping[str, np.ndarray], name: str = "the dataset") -> np.ndarray:
    """The parts of one whole episode side by side; the caller trims afterwards.

    Args:
        parts: at least one.
        raw: key -> [T, ...]; the values of a step are taken as one row, a scalar as a row of one.
        name: of the dataset, for messages.

    Returns:
        float32[T, D].

    Raises:
        UserError: an array is missing, is no array of numbers, has not the columns or another length.
    """
    if not parts:
        raise errors.UserError(f"{name}: the table has no such array; add its parts to the entry")
    blocks = [_block(part, raw, name) for part in parts]
    for part, block in zip(parts, blocks, strict=True):
        if len(block) != len(blocks[0]):
            raise errors.UserError(
                f"{name}: {part.key} has {len(block)} steps and {parts[0].key} has {len(blocks[0])}; "
                "repair the episode"
            )
    return np.concatenate(blocks, axis=1)


def _block(part: Part, raw: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if part.key not in raw:
        raise errors.UserError(f"{name}: no {part.key} to read; it has {_listed(raw)}")
    array = np.asarray(raw[part.key])
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        found = f"{array.dtype}{list(array.shape)}"
        raise errors.UserError(f"{name}: {part.key} is {found}, not numbers a step; correct its entry")
    rows = array.reshape(len(array), int(np.prod(array.shape[1:], dtype=np.int64))).astype(np.float32)
    return OPS[part.op](rows[:, _columns(part, rows.shape[1], name)]).astype(np.float32, copy=False)


def _columns(part: Part, width: int, name: str) -> slice:
    """`part.columns` in an array of `width` values a step; slices that numpy would cut short are refused."""
    bounds = part.columns or (None, None)
    start, stop, _ = slice(*bounds).indices(width)
    if start >= stop or any(bound is not None and abs(bound) > width for bound in bounds):
        raise errors.UserError(
            f"{name}: {part.key} has {width} values a step and the table takes columns {list(bounds)}; "
            "this is another version of the dataset: correct its entry (docs/datasets.md)"
        )
    return slice(start, stop)


def check(entry: Entry, raw_schema: Schema) -> None:
    """Whether a dataset has what its entry names; call it once, at opening.

    Raises:
        UserError: an image, text or array is missing, or has another shape or type.
    """
    for camera, key in entry.images.items():
        shape, dtype = _found(entry, raw_schema, key, camera)
        if len(shape) != 3 or dtype != "uint8":
            raise _differs(entry, key, shape, dtype, "an image uint8[H, W, 3]")
    for key in instruction_keys(entry):
        shape, dtype = _found(entry, raw_schema, key, "the instruction")
        is_text = _kind(dtype) == "text" and shape == ()
        is_codes = _kind(dtype) == "integer" and len(shape) == 1
        if not {"utf-8": is_text, "int-utf32": is_codes}.get(entry.text_encoding, is_text or is_codes):
            raise _differs(entry, key, shape, dtype, f"text as {entry.text_encoding} (text_encoding of its entry)")
    for part in entry.proprio:
        _width(entry, part, raw_schema)
    width = sum(_width(entry, part, raw_schema) for part in entry.action)
    if entry.action and entry.action_dim_names and width != len(entry.action_dim_names):
        raise errors.UserError(
            f"{entry.name}: action has {width} columns and its entry names {len(entry.action_dim_names)}; "
            "correct the entry (docs/datasets.md)"
        )


def instruction_keys(entry: Entry) -> tuple[str, ...]:
    """The raw texts that an entry reads, as a tuple."""
    return (entry.instruction,) if isinstance(entry.instruction, str) else tuple(entry.instruction or ())


def _width(entry: Entry, part: Part, raw_schema: Schema) -> int:
    """Columns that a part gives, after checking that it can be read."""
    shape, dtype = _found(entry, raw_schema, part.key, "action or proprio")
    elements = int(np.prod(shape, dtype=np.int64))
    expected = entry.widths.get(part.key, elements)
    if _kind(dtype) not in ("integer", "number") or elements < 0 or elements != expected:
        raise _differs(entry, part.key, shape, dtype, f"{expected} numbers" if expected > 0 else "numbers")
    taken = np.zeros((2, elements), np.float32)[:, _columns(part, elements, entry.name)]
    return OPS[part.op](taken).shape[1]


def _found(entry: Entry, raw_schema: Schema, key: str, what: str) -> tuple[tuple[int, ...], str]:
    if key not in raw_schema:
        raise errors.UserError(
            f"{entry.name}: no {key}, which the table has for {what}; it has {_listed(raw_schema)}; "
            "correct its entry, or name the one that fits (docs/datasets.md)"
        )
    return raw_schema[key]


def _differs(entry: Entry, key: str, shape: tuple[int, ...], dtype: str, expected: str) -> errors.UserError:
    found = f"{'text' if _kind(dtype) == 'text' else dtype}{list(shape) if shape else ''}"
    return errors.UserError(
        f"{entry.name}: {key} is {found} and the table expects {expected}; "
        "correct its entry, or name the one that fits (docs/datasets.md)"
    )


def _kind(dtype: str) -> str:
    if dtype in ("string", "bytes", "str"):
        return "text"
    try:
        return _KINDS.get(np.dtype(dtype).kind, "unknown")
    except TypeError:
        return "unknown"


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def clips_entry(name: str, rate: float | None, columns: Iterable[schema.Column] | None = None) -> Entry:
    """The entry of a folder that `clips` wrote, whose names are the standard ones already.

    Args:
        columns: what it holds; None is one camera and an instruction.
    """
    keys = {_NATIVE["image_primary"]} if columns is None else {column.name for column in columns}
    return Entry(
        name=name,
        rate=rate,
        images={camera: key for camera, key in _NATIVE.items() if key in keys},
        instruction="language_instruction",
        action=(Part("action"),) if "action" in keys else (),
        proprio=(Part("observation/proprio"),) if "observation/proprio" in keys else (),
        source="written by lapa_jax",
    )


def infer(name: str, raw_images: Iterable[str], raw_arrays: Iterable[str], raw_texts: Iterable[str]) -> Entry:
    """A guess for a dataset that is not in the table, from the keys of its features.

    Cameras in the order of their names: those of the wrist or hand give "image_wrist", the first two
    others "image_primary" and "image_secondary"; where all are of the wrist, the first is
    "image_primary". `action` counts if it is one array. The rate is unknown.
    """
    images = [key for key in sorted(raw_images) if "depth" not in key]
    wrist = [key for key in images if _WRIST.search(key.rsplit("/", 1)[-1])]
    others = [key for key in images if key not in wrist]
    if not others:
        others, wrist = wrist[:1], wrist[1:]
    named = [*zip(CAMERAS[:2], others, strict=False), *zip(CAMERAS[2:], wrist, strict=False)]
    arrays, texts = set(raw_arrays), set(raw_texts)
    return Entry(
        name=name,
        rate=None,
        images=dict(named),
        instruction=tuple(key for key in _TEXTS if key in texts) or None,
        action=(Part("action"),) if "action" in arrays else (),
        proprio=tuple(Part(key) for key in _PROPRIO if key in arrays)[:1],
        text_encoding="auto",
        source="inferred from the features",
    )


def render(entries: Iterable[Entry] | None = None) -> str:
    """The table as Markdown: keys and rates, then actions and grippers."""
    shown = sorted(TABLE.values() if entries is None else entries, key=lambda entry: entry.name)
    keys = [
        [
            f"`{e.name}`",
            _number(e.rate),
            *(_code(e.images.get(camera)) for camera in CAMERAS),
            "<br>".join(map(_code, instruction_keys(e))) or "none",
            _proprio(e),
        ]
        for e in shown
    ]
    actions = [
        [f"`{e.name}`", " ".join(e.action_dim_names) or "none", e.gripper or "none", _trimmed(e) + e.note, e.source]
        for e in shown
    ]
    return "\n\n".join(
        [
            _table(("dataset", "Hz", *CAMERAS, "instruction", "proprio"), keys),
            _table(("dataset", "action", "gripper", "notes", "source"), actions),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _code(key: str | None) -> str:
    return f"`{key}`" if key else ""


def _number(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:g}"


def _proprio(entry: Entry) -> str:
    ranges = ["" if part.columns is None else f" {part.columns[0]}:{part.columns[1]}" for part in entry.proprio]
    return "<br>".join(_code(part.key) + r for part, r in zip(entry.proprio, ranges, strict=True)) or "none"


def _trimmed(entry: Entry) -> str:
    return f"Drops {entry.trim[0]} + {entry.trim[1]} steps at the start and end. " if any(entry.trim) else ""


if __name__ == "__main__":
    print(render())
