"""What is allowed: one decision for every call."""
