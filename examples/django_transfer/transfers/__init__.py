"""A Django project in one package: moving money between two databases."""
