"""Workloads: arrivals, lengths and adapters, from declared numbers or a trace file."""
