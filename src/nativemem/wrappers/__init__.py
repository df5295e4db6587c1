"""What stands in front of an allocator: limits, traces, failures, locks."""
