"""From the configuration to jobs and stored results."""
