"""Data: from a file or a frame to :class:`~fastncf.data.interactions.Interactions`, and on to a split of them.

``readers`` -> ``interactions`` (or ``given_files``, if the test set has files of its own) -> ``split``. ``ids`` defines
raw ids and indices, ``csr`` groups and merges rows, ``synthetic`` generates data sets, ``named`` fetches those
that have a name, ``titles`` reads the titles of items.
"""
