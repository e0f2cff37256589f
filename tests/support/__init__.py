"""Doubles and harnesses that the tests share."""
