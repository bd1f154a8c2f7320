"""The two programs of the demo. They know nothing of Perdure: each is one file for any plain python3, run in a job."""
