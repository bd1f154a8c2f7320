"""What this instance is and has: its identity, what AWS announces of it, its job volumes."""
