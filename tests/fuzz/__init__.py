"""Hostile input: whatever comes, it ends in a named error or a notification. `make fuzz` runs the long form."""
