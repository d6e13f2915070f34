"""What operators type: doctor, connect, support bundles, health."""
