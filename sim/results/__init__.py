"""What a finished run says: instants to seconds, tables, a summary, files."""
