"""``python -m fastncf``."""

from fastncf.cli import main

main()
