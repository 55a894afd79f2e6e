"""What the tests against the recorded VLM share: its weights and sizes, its batches as streams."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import vocab
from lapa_jax.convert import lapa_names, official_lapa
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens

GOLD = Path(__file__).resolve().parents[3] / "shared" / "gold" / "vlm"
BATCHES = ("delta_small_pad", "delta_256_pad", "delta_small_nopad", "action_small_pad", "action_256_pad")
TRUNK = dict(width=64, depth=2, num_heads=4, mlp_dim=128, theta=5e7)
VOCABS = {"latent": dict(text=512, vision=8448, latent=8)}
VOCABS["action"] = VOCABS["latent"] | dict(action=245)


def official_model(kind, dtype="float32", residual_dtype=None, **options):
    """The recorded model: `kind` "latent" (pretraining) or "action" (finetuning)."""
    return vlm.LatentActionVLM(
        vocabs=VOCABS[kind],
        heads=tuple(VOCABS[kind]),
        trunk=TRUNK | options,
        dtype=jnp.dtype(dtype),
        residual_dtype=residual_dtype and jnp.dtype(residual_dtype),
    )


@functools.cache
def official_params(kind):
    """Read from the recorded checkpoint; that of actions is two files one after the other."""
    files = [GOLD / "params"] + [GOLD / "params_action_heads_only"] * (kind == "action")
    model = official_model(kind)
    init = functools.partial(model.init, names=model.heads, method="logits_of")
    shapes = jax.eval_shape(init, jax.random.key(0), Tokens.of(jnp.ones((1, 2), jnp.int32), vocab.TEXT))
    with tempfile.NamedTemporaryFile() as joined:
        joined.write(b"".join(file.read_bytes() for file in files))
        joined.flush()
        return official_lapa.read(joined.name, shapes["params"])


def our_name(key):
    """Path of a parameter, by the official one."""
    return lapa_names.rename(key)[0]


def stream_of(batch):
    """(input Tokens, (target ids, kinds, counts), recorded) of a batch and its forward pass."""
    with np.load(GOLD / "data" / f"{batch}.npz") as z:
        raw = dict(z)
    with np.load(GOLD / f"forward_{batch}.npz") as z:
        recorded = dict(z)
    ids, kinds = (raw["input_tokens"], kinds_of(raw, "input"))
    tokens = Tokens(jnp.asarray(ids), jnp.asarray(kinds), jnp.ones(ids.shape, jnp.int32))
    return tokens, (raw["target_tokens"], kinds_of(raw, "target"), raw["loss_masks"] > 0), recorded


def kinds_of(raw, which):
    kinds = np.where(raw[f"{which}_vision_masks"], vocab.VISION, vocab.TEXT)
    for name, kind in (("delta", vocab.LATENT), ("action", vocab.ACTION)):
        if f"{which}_{name}_masks" in raw:
            kinds = np.where(raw[f"{which}_{name}_masks"], kind, kinds)
    return kinds
