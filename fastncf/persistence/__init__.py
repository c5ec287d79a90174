"""The saved model: its folder, what is written to it, and the checks of what is read back. It knows no Recommender."""

from fastncf.persistence.folder import require_savable

__all__ = ["require_savable"]
