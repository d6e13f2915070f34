"""What must hold for the house as a whole, not for one app."""
