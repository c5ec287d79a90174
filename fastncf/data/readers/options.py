"""Settings of a source beside its name, as a caller gives them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict


class Reading(TypedDict, total=False):
    """Settings of the reading of a source, as :class:`~fastncf.config.Config` has them.

    Attributes:
        time_format: format of dates as strftime has it, or None to recognise it.
        dayfirst: whether the day stands before the month, or None to recognise it.
        encoding: encoding of text files, or None for UTF-8.
        drop_missing: leave out rows that lack a user, an item or a time, rather than refuse them.
        min_rating: leave out rows whose rating is lower, or None.
    """

    time_format: str | None
    dayfirst: bool | None
    encoding: str | None
    drop_missing: bool
    min_rating: float | None


class Lookup(NamedTuple):
    """Settings of a source whose ids are looked up among those of training, as those of a test set are.

    Attributes:
        integer_roles: columns of ids that are integers in training: a word such as NULL among them is a missing value.
        known: names of the columns of an earlier source, which are taken where this one has them; None where the caller
            names columns.
        skips: setting that leaves out rows which lack a value, in words.
        may_be_empty: whether all rows of the source may be left out.
    """

    integer_roles: Collection[str] = ()
    known: Mapping[str, str] | None = None
    skips: str = "drop_missing=True"
    may_be_empty: bool = False


@dataclass(frozen=True)
class ReadOptions:
    """Settings of a source, as a caller gives them.

    Attributes:
        names: the given name of the user, item, time, rating and weight column, or None for each.
        needs_time: whether a source without a time column is an error.
        lookup: how ids are looked up, so that no header passes for them; None for training interactions.
        keeps_text: whether dates in text stay text, since the rows of other files decide on their format as well.
        are_lists: whether a line is a list of items, where it may be one as well as a row of a table.
        before: a point in time to find among the times, or None.
        time_format, dayfirst, encoding, drop_missing, min_rating: see :class:`Reading`.
    """

    names: dict[str, str | None]
    needs_time: bool
    lookup: Lookup | None = None
    keeps_text: bool = False
    are_lists: bool = False
    before: str | None = None
    time_format: str | None = None
    dayfirst: bool | None = None
    encoding: str | None = None
    drop_missing: bool = False
    min_rating: float | None = None

    @property
    def is_looked_up(self) -> bool:
        """Whether ids are looked up among those of training."""
        return self.lookup is not None

    @property
    def known(self) -> Mapping[str, str] | None:
        """Names of the columns of an earlier source, or None, see :class:`Lookup`."""
        return None if self.lookup is None else self.lookup.known

    def needs_rating(self) -> bool:
        """Return whether rows are left out by their ratings; rows of a test set all count."""
        return self.min_rating is not None and not self.is_looked_up

    def names_among(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the names of the columns that are read, by their roles: the given ones, and the known ones there are.

        That of a rating is only among them if it is used.
        """
        given = {role: name for role, name in self.names.items() if name is not None}
        if not self.needs_rating():
            given.pop("rating", None)
        return {role: name for role, name in (self.known or {}).items() if name in columns} | given

    def hint(self, words: str, otherwise: str = "") -> str:
        """Return words of a message on how to name columns, or others where no argument does."""
        return words if self.known is None else otherwise

    def remedy(self) -> str:
        """Return what a message on a missing value ends with: the setting that leaves such rows out."""
        return f"; {(self.lookup or Lookup()).skips} leaves such rows out"

    def has_date_format(self) -> bool:
        """Return whether the caller says anything of the format of dates."""
        return self.time_format is not None or self.dayfirst is not None


def names_of(given: Mapping[str, object]) -> dict[str, str | None]:
    """Return given names of columns by their roles as text, or None for each role without one."""
    return {role: None if name is None else str(name) for role, name in given.items()}
