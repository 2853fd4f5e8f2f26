"""Reproduction of the paper: tables and figures."""
