"""How models are measured, compared and shown."""
