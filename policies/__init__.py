"""Policies: decisions about scheduling, caching, prefetching and predicting, and nothing else."""
