"""The allocators: what hands out memory, and what holds values in it."""
