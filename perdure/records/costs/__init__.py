"""Money and time: prices, the ledger, its rollups, and reports."""
