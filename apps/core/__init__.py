"""The ground: base records, actor, errors, egress, sealing, backend loader, door glue."""
