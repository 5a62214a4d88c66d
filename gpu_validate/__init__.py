"""The GPU harness: measure, fit, and replay the same core in real time. Nothing here is imported unless it is used."""
