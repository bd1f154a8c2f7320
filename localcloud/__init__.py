"""AWS on one machine, unkind parts included. Nobody imports it; it imports only perdure.contracts and settings."""
