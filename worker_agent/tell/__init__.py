"""What the agent tells: reports, the spool that keeps them until Temporal has them, and logs."""
