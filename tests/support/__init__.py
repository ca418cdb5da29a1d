"""What several test modules share: small models and pipelines, tables of cases, and ways to run things."""
