"""LARMI: language-model clusters, synthesized users, max cover and the multi-interest model."""
