"""Shared types, the dictionary of columns, the registry, the forms and the stage arithmetic. Imports no other room."""
