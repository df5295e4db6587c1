"""An extension in C under a budget: it fills its share, is refused, and nothing else is disturbed.

pip install --no-build-isolation ./examples/c_extension && python examples/c_extension/demo.py
"""

from vector import Vector

import nativemem

budget = nativemem.Budget("1 MiB", name="vectors")
heap = nativemem.Heap()
vector = Vector(nativemem.Limited(heap, budget))
try:
    while True:
        vector.append(1.0)
except nativemem.BudgetExceeded as error:
    print(error)
assert vector.sum() == len(vector)
print(f"{len(vector)} numbers are kept; {budget.name} has {budget.used} of {budget.limit} bytes in use")
vector.close()
assert budget.used == 0 and heap.stats.live == 0
