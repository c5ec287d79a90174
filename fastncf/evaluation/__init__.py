"""Candidate lists, scores within a memory budget, ranks by counting, metrics, and the best items of a user."""
