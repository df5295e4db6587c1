"""Which refusals of memory does the extension beside this file not survive?

python setup.py build_ext --inplace
python sweep.py
"""

import records

from nativemem.testing import sweep

NAMES = [f"name {i}" for i in range(6)]  # more than a new dict has room for
NUMBERS = [1.5, 2.5, 3.5]


def use() -> list[object]:
    """What the extension's own tests would do."""
    return [
        records.numbers(3),
        records.index(NAMES),
        records.line(100),
        records.pair(2, 3),
        records.mean(NUMBERS),
        records.twice("twice"),
    ]


def main() -> None:
    print(sweep(use, leaks=True))


if __name__ == "__main__":
    main()
