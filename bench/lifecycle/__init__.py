"""What the orchestration costs: real workflows and records, a real Temporal server, simulated agents.

`.venv/bin/python -m bench.lifecycle` (bench/README.md). Three processes: Temporal's dev server as localcloud runs it
(bed), a control worker whose AWS answers at once and from memory (control), and one that plays the agents (agents).
Everything else is the product's. Measured: steady, notice, memory, week; `__main__` makes the tables.
"""
