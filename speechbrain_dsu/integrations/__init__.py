"""Third parties: adapters to our contracts and checkpoint converters, one folder each.

Nothing here is imported by the rest of the package: YAML tags and commands name it.
"""
