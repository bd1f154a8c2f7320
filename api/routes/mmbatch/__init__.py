"""The reference product's endpoints and key names, thin over ours, so that existing scripts run."""
