"""Trace files in and out: public formats, and our own CSV."""
