"""The ground that everything else stands on."""
