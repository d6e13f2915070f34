"""How this installation is put together: settings, doors and the commands that span apps."""
