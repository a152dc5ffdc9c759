"""Measurements, each printed by one command of the Makefile."""
