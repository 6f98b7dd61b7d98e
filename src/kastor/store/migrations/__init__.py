"""Alembic's folder: how a database of any released version becomes one of this."""
