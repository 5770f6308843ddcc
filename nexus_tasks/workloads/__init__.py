"""What is asked of a server: workloads, their lengths, the requests that they come to."""
