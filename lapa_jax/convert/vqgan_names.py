"""Names of the official image tokenizer's parameters (LWM and LAPA, Flax) and of ours; layouts are the same.

One table serves both directions. `#` stands for a number.
"""

import functools
import re
from collections.abc import Mapping

import numpy as np

from lapa_jax import errors

CODEBOOK = "quantize/embeddings"


def _block(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}/GroupNorm_0": f"{ours}/norm_in",
        f"{theirs}/Conv_0": f"{ours}/conv_in",
        f"{theirs}/GroupNorm_1": f"{ours}/norm_out",
        f"{theirs}/Conv_1": f"{ours}/conv_out",
        f"{theirs}/Conv_2": f"{ours}/conv_skip",
    }


def _ends(side: str) -> dict[str, str]:
    """What encoder and decoder both begin, are in the middle, and end with."""
    return {
        f"{side}/Conv_0": f"{side}/conv_in",
        **_block(f"{side}/MidBlock_0/ResnetBlock_#", f"{side}/middle_#"),
        f"{side}/GroupNorm_0": f"{side}/norm_out",
        f"{side}/Conv_1": f"{side}/conv_out",
    }


MODULES = {
    **_ends("encoder"),
    **_block("encoder/DownsamplingBlock_#/ResnetBlock_#", "encoder/down_#/block_#"),
    "encoder/DownsamplingBlock_#/Downsample_0/Conv_0": "encoder/down_#/conv_down",
    "quant_conv": "conv_to_codes",
    "post_quant_conv": "conv_from_codes",
    "quantize": "quantize",
    **_ends("decoder"),
    **_block("decoder/UpsamplingBlock_#/ResnetBlock_#", "decoder/up_#/block_#"),
    "decoder/UpsamplingBlock_#/Upsample_0/Conv_0": "decoder/up_#/conv_up",
}
"""Official module -> ours."""
PARAMETERS = {"embeddings": "codebook"}
"""Official name of a parameter -> ours; kernel, bias and scale are called the same."""


def from_official(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters by '/'-joined path, of official ones by theirs.

    Raises:
        UserError: a path is unknown.
    """
    return {renamed(path): value for path, value in leaves.items()}


def to_official(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `from_official`, sorted by path as the official files are."""
    named = {renamed(path, official=True): value for path, value in leaves.items()}
    return dict(sorted(named.items(), key=lambda item: item[0].split("/")))


def renamed(path: str, official: bool = False) -> str:
    """Our path for an official one; with `official` the other way round.

    Raises:
        UserError: the path is unknown.
    """
    parameters = {ours: theirs for theirs, ours in PARAMETERS.items()} if official else PARAMETERS
    module, _, parameter = path.rpartition("/")
    for pattern, template in _patterns(official):
        if found := pattern.fullmatch(module):
            new = functools.reduce(lambda text, number: text.replace("#", number, 1), found.groups(), template)
            return f"{new}/{parameters.get(parameter, parameter)}"
    raise errors.UserError(f"{path} is no parameter of {'ours' if official else 'the official image tokenizer'}")


@functools.cache
def _patterns(official: bool) -> tuple[tuple[re.Pattern, str], ...]:
    pairs = [pair[::-1] if official else pair for pair in MODULES.items()]
    return tuple((re.compile(source.replace("#", r"(\d{1,3})")), target) for source, target in pairs)
