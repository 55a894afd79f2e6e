"""What benchmarks/data_pipeline.py is made of: the dataset, the contestants, the measuring, the tables."""
