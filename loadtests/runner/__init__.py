"""Runs a profile: a fresh cluster, Locust beside it, chaos where it is asked for, and the report's place in the end."""
