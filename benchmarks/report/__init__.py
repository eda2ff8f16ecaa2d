"""Rows become estimates, tables, figures and a page."""
