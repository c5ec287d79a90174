"""Candidates, scores, ranks and metrics."""
