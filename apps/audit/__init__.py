"""What happened: the chained journal nobody can quietly change."""
