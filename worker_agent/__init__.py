"""The agent: the process on an instance that freezes jobs, brings them back, and reports."""
