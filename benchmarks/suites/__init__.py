"""Which cells a suite has."""
