"""Workloads: what is asked of a server, how long it is, and the requests that it comes to."""
