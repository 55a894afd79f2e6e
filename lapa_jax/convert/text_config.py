"""What a text model's config.json says, as keyword arguments of `llama.Trunk`; what we cannot do is refused."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lapa_jax import errors
from lapa_jax.convert import text_families as families
from lapa_jax.models import llama, rotary


class TextModel(NamedTuple):
    """What a config.json says.

    Attributes:
        trunk: keyword arguments of `llama.Trunk`, JSON values.
        vocab_size: rows of the embedding table.
        tied: the head is the embedding table.
        norm_offset: what scales of norms lack in the checkpoint: 1 in Gemma.
    """

    trunk: dict[str, Any]
    vocab_size: int
    tied: bool
    norm_offset: int


def parse(config: Mapping[str, Any]) -> TextModel:
    """The model of a config.json's contents.

    Raises:
        UserError: the model is none of `DEFAULTS`, or something about it is not implemented; names the key.
    """
    kind = str(config.get("model_type"))
    if kind not in families.DEFAULTS:
        known = ", ".join(families.DEFAULTS)
        raise errors.UserError(f"no text model for model_type {kind!r} of config.json; known are: {known}")
    for key, values in families.CAN.items():
        if config.get(key) is not None and config[key] not in values:
            raise errors.UserError(f"config.json has {key}={config[key]!r}, which the trunk does not do")
    c = _with_defaults(config, kind)
    num_heads = c["num_attention_heads"]
    trunk = dict(
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        num_heads=num_heads,
        mlp_dim=c["intermediate_size"],
        num_kv_heads=c["num_key_value_heads"] or num_heads,
        head_dim=c["head_dim"] or c["hidden_size"] // num_heads,
        activation=_activation(c["hidden_act"], kind),
        norm_eps=float(c["rms_norm_eps"]),
        **families.FIXED[kind],
        **_positions(config, kind),
    )
    trunk |= _windows(config, kind, trunk, c.get("sliding_window"))
    if kind in families.GEMMA:
        trunk["embed_scale"] = c["hidden_size"] ** 0.5
    if kind == "gemma3_text":
        trunk["query_scale"] = c["query_pre_attn_scalar"] ** -0.5
    llama.check(trunk)
    return TextModel(trunk, c["vocab_size"], c["tie_word_embeddings"], int(kind in families.GEMMA))


def _with_defaults(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The keys that we read, each of the kind of its default; numbers above 0."""
    merged = {key: config.get(key, default) for key, default in families.DEFAULTS[kind].items()}
    if kind in families.GEMMA:  # has been called both
        merged["hidden_act"] = config.get("hidden_activation") or merged["hidden_act"]
    for key, value in merged.items():
        usual = families.DEFAULTS[kind][key]
        wanted = int if key in families.OPTIONAL else (float, int) if isinstance(usual, float) else type(usual)
        sensible = isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
        if sensible and isinstance(value, int | float) and wanted is not bool:
            sensible = 0 < value < float("inf")
        if not sensible and not (value is None and key in families.OPTIONAL):
            raise errors.UserError(
                f"config.json has {key}={value!r}, which makes no sense where {usual!r} is usual"
            )
    return merged


def _activation(name: str, kind: str) -> str:
    if kind == "gemma" and name == "gelu":  # of the first release's configs, which mean the other one
        name = "gelu_pytorch_tanh"
    if name not in families.ACTIVATIONS:
        known = ", ".join(families.ACTIVATIONS)
        raise errors.UserError(f"config.json has hidden_act={name!r}, the trunk can: {known}")
    return families.ACTIVATIONS[name]


def _positions(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Rotary frequencies, in the words of transformers 5 (`rope_parameters`) or of those before."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta", 1_000_000.0 if kind == "gemma3_text" else 10_000.0)
    if kind != "gemma3_text":
        theta, scaling = _rope(rope, theta)
        return dict(theta=theta, local_theta=theta, rope_scaling=scaling)
    whole, local = rope, {}
    if isinstance(rope, Mapping) and set(rope) & set(families.LAYER_TYPES):
        whole, local = (rope.get(name) or {} for name in families.LAYER_TYPES)
    theta, scaling = _rope(whole, theta)
    local_theta, local_scaling = _rope(local, config.get("rope_local_base_freq", 10_000.0))
    if local_scaling:
        raise errors.UserError("config.json scales positions of sliding_attention, which the trunk does not do")
    return dict(theta=theta, local_theta=local_theta, rope_scaling=scaling)


def _rope(rope: Any, theta: Any) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling (see `rotary.frequencies`)."""
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else None
    if kind not in ("default", *rotary.SCALINGS) or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise errors.UserError(
            f"config.json has rotary positions {rope}, the trunk can, of whole heads, rope_type: "
            f"default, {', '.join(rotary.SCALINGS)}"
        )
    numbers = {"rope_theta": rope.get("rope_theta", theta)}
    numbers |= {name: rope.get(name) for name in rotary.SCALINGS.get(kind, ())}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise errors.UserError(f"config.json has {name}={value!r} for its rotary positions: a number above 0")
    theta = float(numbers.pop("rope_theta"))
    return theta, None if kind == "default" else {"type": kind, **numbers}


def _windows(config: Mapping[str, Any], kind: str, trunk: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    """Which layers are local, and their window."""
    local = [families.LAYER_TYPES[name] for name in _layer_types(config, kind, trunk["depth"], window)]
    if not any(local):
        return {}
    if window is None or (kind != "gemma3_text" and trunk["rope_scaling"]):
        raise errors.UserError(
            f"config.json has layers of sliding_attention, with sliding_window={window} and positions scaled by "
            f"{trunk['rope_scaling']}: the trunk's local layers have a window and unscaled positions"
        )
    return dict(local_layers=local, local_window=window)


def _layer_types(config: Mapping[str, Any], kind: str, depth: int, window: int | None) -> list[str]:
    whole, near = families.LAYER_TYPES
    types = config.get("layer_types") if kind in families.TYPED else None
    if types is not None:
        if not isinstance(types, list) or len(types) != depth or any(name not in (whole, near) for name in types):
            raise errors.UserError(f"config.json has layer_types={types!r}: {depth} times {whole} or {near} goes")
        return types
    if kind != "gemma3_text":
        return [whole if window is None else near] * depth
    every = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    if type(every) is not int or every < 1:
        raise errors.UserError(f"config.json has sliding_window_pattern={every!r}: it takes a number of layers")
    return [near if (layer + 1) % every else whole for layer in range(depth)]
