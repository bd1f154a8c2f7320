"""Temporal workflows: pure and replay-tested. Start with job_protection."""
