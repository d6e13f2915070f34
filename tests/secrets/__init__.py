"""Secrets: sealed in their place, never shown."""
