"""Checkpoints of other code, in and out, without that code."""
