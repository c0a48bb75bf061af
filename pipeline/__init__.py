"""What the workflows of .github/ call, through make: decisions in code, so that they have tests.

Standard library alone, so that nothing is installed where credentials of production are.
"""
