"""Against measurements that other people published: their runs rebuilt, simulated, and set side by side."""
