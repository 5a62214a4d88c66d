"""A small serving engine in torch: what executes the core's steps when they are replayed on a real device."""
