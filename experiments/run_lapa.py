"""The published LAPA from its own files: what latent action, or what action, follows an image and an instruction.

    python experiments/convert_vqgan.py --official=vqgan --workdir=runs/vqgan
    python experiments/run_lapa.py --params=params --tokenizer=tokenizer.model --vqgan=runs/vqgan \
        --image=photo.jpg --instruction="pick up the blue block"

One line of JSON an image. With `--ids=action --bins=FILE.csv` a finetuned checkpoint gives an action. See
docs/import-official.md.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import launch
import numpy as np
from absl import flags
from PIL import Image

from lapa_jax import errors, generate, sharding, trained, vocab
from lapa_jax.convert import lapa_model
from lapa_jax.data import action_bins, official_images, official_prompts
from lapa_jax.models import image_tokens
from lapa_jax.models.token_stream import Tokens

_PARAMS = flags.DEFINE_string("params", None, "Official parameters (streaming msgpack).", required=True)
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Official tokenizer.model (SentencePiece).", required=True)
_VQGAN = flags.DEFINE_string("vqgan", None, "Folder that convert_vqgan made.", required=True)
_IMAGE = flags.DEFINE_multi_string("image", None, "Image file; may be given several times.", required=True)
_INSTRUCTION = flags.DEFINE_multi_string("instruction", None, "One for all, or one an image.", required=True)
_IDS = flags.DEFINE_enum("ids", "latent", ["latent", "action"], "What to generate.")
_COUNT = flags.DEFINE_integer("count", None, "Ids an image: 4 latents, or an action's 7.", lower_bound=1)
_BINS = flags.DEFINE_string("bins", None, "CSV of bin edges of a finetuned checkpoint: ids become values.")
_CENTRE = flags.DEFINE_bool("centre_crop", False, "For checkpoints finetuned on random crops.")
_HEADS = flags.DEFINE_integer("num_heads", None, "Attention heads; of LLaMA's sizes they are known.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of weights and products.")
_ROPE = flags.DEFINE_enum("rope", "bfloat16", ["bfloat16", "exact"], "Rotary table: rounded for LAPA's weights.")
_THETA = flags.DEFINE_float("theta", 5e7, "Base of the rotary frequencies.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0: the likeliest id. Official actions: 1.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Draw from the k likeliest; officially 50.")
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")


def read_image(path: str, centre: bool) -> np.ndarray:
    """uint8[256, 256, 3] as the official sampler sees it."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise errors.UserError(f"cannot read the image {path}: {error}") from None
    pixels = official_images.squared(pixels)
    return official_images.centre(pixels) if centre else pixels


def prompts_of(
    text: official_prompts.Tokenizer, tokenizer: image_tokens.Tokenizer, tasks: Sequence[str],
    images: np.ndarray, kind: int,
) -> Tokens:
    """The official prompt of each task and uint8[B, 256, 256, 3] image."""
    codes = np.asarray(image_tokens.encode_frames(tokenizer, images))
    instructions = [official_prompts.INSTRUCTION.format(task) for task in tasks]
    found = official_prompts.prompt_batch(text, instructions, codes, kind)
    return Tokens(*(jnp.asarray(found[name], jnp.int32) for name in ("tokens", "kinds", "mask")))


def _run() -> list[dict[str, Any]]:
    paths, tasks = _IMAGE.value, _INSTRUCTION.value
    tasks = tasks * len(paths) if len(tasks) == 1 else tasks
    if len(tasks) != len(paths):
        raise errors.UserError(f"{len(paths)} images and {len(tasks)} instructions: give one, or one an image")
    bins = action_bins.read(_BINS.value) if _BINS.value else None
    count = _COUNT.value or (len(bins.edges) if bins else {"latent": 4, "action": 7}[_IDS.value])
    if bins and (_IDS.value != "action" or count != len(bins.edges)):
        raise errors.UserError(f"--bins is for --ids=action and {len(bins.edges)} ids, not {count} {_IDS.value}s")
    kind = vocab.NAMES.index(_IDS.value)
    sampling = generate.Sampling(_TEMPERATURE.value, _TOP_K.value)
    text = official_prompts.Tokenizer.read(_TOKENIZER.value)
    images = np.stack([read_image(path, _CENTRE.value) for path in paths])

    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=-1, devices=jax.local_devices())
    with jax.set_mesh(mesh):
        tokenizer = trained.load_tokenizer(_VQGAN.value, mesh)
        options = dict(theta=_THETA.value, rope=_ROPE.value)
        dtypes = dict(dtype=jnp.dtype(_DTYPE.value), residual_dtype=jnp.dtype("float32"))
        model = lapa_model.model_of(_PARAMS.value, _HEADS.value, **options, **dtypes)
        params = lapa_model.load(_PARAMS.value, model, mesh, _DTYPE.value)
        run = functools.partial(generate.generate, model, name=_IDS.value, count=count, sampling=sampling)
        prompt = prompts_of(text, tokenizer, tasks, images, kind)
        allowed = None if bins is None else possible(bins, model.vocabs["action"])
        found = jax.jit(run)({"params": params}, prompt, key=jax.random.key(_SEED.value), allowed=allowed)
    return rows(paths, tasks, np.asarray(found.ids), bins)


def possible(bins: action_bins.ActionBins, num_ids: int) -> jax.Array:
    """bool[A, V]: ids that are a bin of their dimension.

    Raises:
        UserError: the model has fewer ids than a dimension has bins.
    """
    if bins.counts.max() > num_ids:
        raise errors.UserError(f"{_BINS.value} has {bins.counts.max()} bins, the model {num_ids} action ids")
    return jnp.arange(num_ids) < bins.counts[:, None]


def rows(paths: Sequence[str], tasks: Sequence[str], ids: np.ndarray, bins: Any) -> list[dict[str, Any]]:
    """What is printed: a dict for each image."""
    found = [
        dict(image=path, instruction=task, ids=one.tolist())
        for path, task, one in zip(paths, tasks, ids, strict=True)
    ]
    if bins is not None:
        for row, values in zip(found, np.asarray(bins.decode(ids)), strict=True):
            row["action"] = [float(value) for value in values]
    return found


def main(_: Any) -> None:
    for row in _run():
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    launch.run(main)
