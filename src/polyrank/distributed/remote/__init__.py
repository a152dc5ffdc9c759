"""Ranks on other machines: a relay beside each of them, frames over encrypted TCP between."""
