"""Negatives, the order of an epoch, and batches on the device."""
