"""The contract of both backends: one suite, run on each. Its clauses are numbered in docs/contract.md."""
