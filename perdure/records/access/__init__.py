"""Who may ask and who did: sessions, API tokens, the audit log."""
