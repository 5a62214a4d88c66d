"""Runs by the many: replications, sweeps, comparisons, capacity."""
