"""The database as a whole: tables, opening it, migrations, backup, and pages of any list."""
