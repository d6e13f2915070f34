"""Configuration as a file: written without secrets, read with a preview, applied by the services that staff use."""
