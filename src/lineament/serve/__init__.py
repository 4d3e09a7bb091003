"""A web server: a page for people and routes for programs. ``lineament serve`` runs it; extra ``serve``."""

from lineament.serve.app import create_app
from lineament.serve.limits import Limits

__all__ = ["Limits", "create_app"]
