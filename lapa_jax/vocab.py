"""The named vocabularies: every token has a `kind` that says which table its id belongs to.

Kinds are fixed numbers, never derived from the order of a mapping (a `ConfigDict` iterates sorted).
"""

TEXT, VISION, LATENT, ACTION = range(4)

IMAGE = 4
"""No vocabulary: the id is a row of what an image encoder gave."""

NAMES = ("text", "vision", "latent", "action")
"""`NAMES[kind]` is the vocabulary's name in configs and parameter paths."""

PAD_ID = 0
BOS_ID = 1
UNK_ID = 2
"""Ids of the special tokens in text vocabularies trained here (`data/prompts.py`)."""

LLAMA_UNK_ID, LLAMA_BOS_ID, LLAMA_EOS_ID = range(3)
"""Ids of the special tokens in LLaMA's text vocabulary, which the published models have; it pads with <unk>."""

NUM_IMAGE_CODES = 8192
END_OF_FRAME_ID = 8192
END_OF_VISION_ID = 8193
"""Ids of the published vision vocabulary: below these the codes of the image tokenizer."""
