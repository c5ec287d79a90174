"""Fitted recommender: recommendations by the user's own ids as polars frames, evaluation, saving and loading.

:class:`Recommender` is put together in ``whole.py`` from what can be done with a fitted model, a file for each.
"""

from fastncf.recommender.loading import load
from fastncf.recommender.whole import Recommender

__all__ = ["Recommender", "load"]
