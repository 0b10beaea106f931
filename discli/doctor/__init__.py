"""What ``discli doctor`` checks. Imports nothing here: a broken package must not hide the checks of the others."""
