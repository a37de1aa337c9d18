"""How replicas become equal again: hints, comparing by hash trees, deleting for good, recovering what was lost."""
