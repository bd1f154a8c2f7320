"""The OCI runtime wrapper and its stdio keeper: stand-alone stdlib programs beside the agent."""
