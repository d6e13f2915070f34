"""How servers are reached: one Protocol, one client for each transport."""
