"""What runs later: background work with a visible state."""
