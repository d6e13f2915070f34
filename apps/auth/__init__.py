"""Who is asking: users, organisations, roles, keys and tokens."""
