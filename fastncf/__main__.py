"""``python -m fastncf``, and what the ``fastncf`` command runs."""

import sys


def run() -> None:
    """Run the command line; an interruption while it is imported ends it as any other does."""
    try:
        from fastncf.cli import main

        main()
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print("fastncf: the command line needs more packages: pip install cyclopts rich", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:  # also of a signal that arrives while an error is reported
        if sys.stderr is not None:
            print(f"fastncf: {str(error) or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", 2))


if __name__ == "__main__":
    run()
