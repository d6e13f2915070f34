"""Usage: every call counted, none of them waiting for it."""
