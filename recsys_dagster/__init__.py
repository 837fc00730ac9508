"""Raw interaction logs to two trained recommenders, LARMI and G2Rec, as one Dagster asset graph."""
