"""What the core is made of: memory, adapters, requests, batches, admission and steps. No clock, no SimPy, no torch."""
