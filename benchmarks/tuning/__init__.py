"""Settings are chosen on validation data."""
