"""The product's words and rules. Standard library and pydantic only: no clock, no I/O; time is an argument."""
