"""What benchmarks/vlm.py is made of: sizes, the two networks in their processes, the duel, packing, images."""
