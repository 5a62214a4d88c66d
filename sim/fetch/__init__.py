"""Public data sets into a folder, every file as its digest says or not at all."""
