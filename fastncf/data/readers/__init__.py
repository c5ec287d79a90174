"""Readers: from one source, a file or a frame, to a checked table of raw ids and times.

``table.read_table`` is the way in. ``files`` opens and unpacks a file, and ``kinds`` tells what it is. ``json_lines``
reads JSON lines. ``text`` reads CSV and the like with the help of ``layout`` (separator and header, by the first rows)
and ``records`` (all rows, by a kernel, from ``raw_text``). ``columns`` finds the user, item and time columns,
``checks`` and ``times`` check their values. ``candidates`` reads lists of negatives, a format of its own.
"""
