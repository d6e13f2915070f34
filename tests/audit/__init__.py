"""The journal: what it writes down, and that nobody can change it unseen."""
