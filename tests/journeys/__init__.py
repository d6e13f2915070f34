"""Whole ways of a person through the platform, as a process of its own."""
