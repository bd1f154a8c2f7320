"""The database: tables, queries (one module per question asked), migrations. SQLite by default, PostgreSQL by URL."""
