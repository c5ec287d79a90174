"""From one source, a file or a frame, to a checked table of raw ids and times."""
