"""The control room: who sees which rows, and what deeds do."""
