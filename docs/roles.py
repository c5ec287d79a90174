"""An extension of Griffe: roles in docstrings, such as ``:func:`fastncf.fit` ``, are shown as code in the reference."""

import re

from griffe import Extension, Object

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")


class Roles(Extension):
    """Replace each role by the name that it holds."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
