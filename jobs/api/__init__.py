"""Calls to outside APIs."""
