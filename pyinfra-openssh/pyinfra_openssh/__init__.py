"""pyinfra over the system's own OpenSSH: one log-in per host, one long-lived shell over it, one round trip per command."""
