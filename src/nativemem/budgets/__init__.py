"""Budgets: limits with owners, lending, pressure, and the scopes that charge to them."""
