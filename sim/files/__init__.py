"""Configuration files read with a mark for every value, and text files that appear whole."""
