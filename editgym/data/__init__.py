"""Data sets, read from `EDITGYM_DATA`; nothing here knows about networks or rewards."""
