"""MaskWorld and ShiftWorld."""
