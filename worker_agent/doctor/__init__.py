"""`perdure doctor` on an instance: what keeps jobs here from being protected, and the command that mends each of it."""
