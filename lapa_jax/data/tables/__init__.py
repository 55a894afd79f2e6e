"""Datasets as data: keys, rates and conventions by name, and named mixtures."""
