"""What benchmarks/serving.py is made of: a policy, servers in processes of their own, clients that never rest."""
