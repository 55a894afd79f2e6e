"""What benchmarks/vlm_memory.py is made of: cases, the train step on shapes alone, what a compiler says of it."""
