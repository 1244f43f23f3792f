"""Models over units: recipes put them together in YAML."""
