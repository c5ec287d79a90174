"""From a file or a frame to interactions and a split."""
