"""One stack on this machine: its place and state, the programs that it starts, and what asks it from outside."""
