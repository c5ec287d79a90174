"""fastncf beside its peers, each in an environment of its own: see :mod:`benchmarks.peers.__main__`."""
