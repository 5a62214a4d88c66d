"""The laws that every policy keeps, and the suite that looks for a world where one is broken."""
