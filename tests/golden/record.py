"""Renew ``golden.json``: ``python -m tests.golden.record``. It prints the names of the cases whose results differ."""

import json
from pathlib import Path

from tests.golden.cases import CASES, compute
from tests.golden.fingerprint import fingerprint

FILE = Path(__file__).with_name("golden.json")


def main() -> None:
    before = json.loads(FILE.read_text())["cases"] if FILE.exists() else {}
    cases = {name: compute(name) for name in sorted(CASES)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in cases.items())
    FILE.write_text(f'{{"fingerprint": {json.dumps(fingerprint())},\n"cases": {{\n{lines}\n}}}}\n')
    for name in sorted({*before, *cases}):
        if before.get(name) != cases.get(name):
            print(name)


if __name__ == "__main__":
    main()
