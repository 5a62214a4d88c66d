"""The GPU harness: measure, fit and replay. Not built yet; README.md says what will be here."""
