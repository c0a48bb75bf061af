"""Terraform tested from package registries alone: see README.md."""
