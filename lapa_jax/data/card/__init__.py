"""The dataset card: what a dataset holds, and what looks wrong with it."""
