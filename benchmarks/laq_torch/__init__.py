"""The official LAQ as plain PyTorch, for benchmarks/laq.py; torch is needed for nothing else here."""
