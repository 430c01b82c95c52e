"""The registry of Prefect deployments, the `empelt` command, and the catalog. Thin: it calls the rooms."""
