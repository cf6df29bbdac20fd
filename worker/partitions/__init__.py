"""Notifications and deliveries by month, where PostgreSQL was told so: a month that is over is purged by a drop."""

from worker.partitions.dividing import Converted, convert
from worker.partitions.tending import tend

__all__ = ["Converted", "convert", "tend"]
