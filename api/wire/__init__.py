"""What API answers look like. Apart from domain and tables, so that each can change by itself."""
