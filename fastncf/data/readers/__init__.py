"""Readers: from one source, a file, several files or a frame, to a checked table of raw ids and times.

``table.read_table`` is the way in, ``options`` what the caller says of the source.

- Files: ``files`` opens a file, ``packed`` unpacks it, and ``kinds`` tells what it is. ``json_lines`` reads JSON lines.
  ``text`` reads CSV and the like with the help of ``layout`` (separator and header, by the first rows) and ``records``
  (all rows, by a kernel, from ``raw_text``). ``several`` joins the ``parts`` of several files. ``scans`` computes
  columns of Parquet, Feather and lazy frames, and ``slices`` yields those of large Parquet files slice by slice.
- Frames: ``frames`` takes columns of pandas, and ``objects`` times that are Python objects.
- Columns: ``columns`` finds the user, item and time columns by their ``names``. ``checks``, ``times`` with ``dates``,
  and ``ratings`` check their values; ``deciding_times`` does it for times that are not in memory as a whole.

``candidates`` reads lists of negatives and ``id_columns`` columns of ids alone, formats of their own.
"""
