"""The named vocabularies: every token has a `kind` that says which table its id belongs to.

Kinds are fixed numbers, never derived from the order of a mapping (a `ConfigDict` iterates sorted).
"""

TEXT, VISION, LATENT, ACTION = range(4)

NAMES = ("text", "vision", "latent", "action")
"""`NAMES[kind]` is the vocabulary's name in configs and parameter paths."""

PAD_ID = 0
BOS_ID = 1
UNK_ID = 2
"""Ids of the special tokens in text vocabularies trained here (`data/prompts.py`)."""
