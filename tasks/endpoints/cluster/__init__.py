"""Serving on Kubernetes: the cluster starts, places and restarts the instances; we say which should be there."""
