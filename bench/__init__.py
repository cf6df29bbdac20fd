"""Measured comparisons; each prints its own table."""
