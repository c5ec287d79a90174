"""Recorded results of every way to train, draw and split: a change of structure must not change a bit of them."""
