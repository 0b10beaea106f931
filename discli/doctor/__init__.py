"""What ``discli doctor`` looks at. Names nothing here: the module of one broken package must not hide the others."""
