"""Bytes on disk: positioned reads, records, the sidecar index, and writing RLDS."""
