"""What benchmarks/laq.py is made of: sizes, the two networks in their processes, the duel, the tables."""
