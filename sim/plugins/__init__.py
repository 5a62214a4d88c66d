"""Policies by name: built-in, installed or from a file, and whose fault a failure is."""
