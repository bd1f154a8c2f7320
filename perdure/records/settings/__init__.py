"""The system configuration in the database, and who follows it."""
