"""How much: every metered call, allowed or denied."""
