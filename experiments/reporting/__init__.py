"""Charts, figures and pages of results, made from record files."""
