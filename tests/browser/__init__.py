"""The control room in a real browser."""
