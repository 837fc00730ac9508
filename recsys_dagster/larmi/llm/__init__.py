"""Asking a language model about users: settings, limits, cost, cache, and the two ways to ask."""
