"""`python -m deployments` is `empelt`."""

from deployments.command import main

main()
