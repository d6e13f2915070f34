"""Checks that look at files without running them; `make lint` runs each as `python -m tests.static.<name>`."""
