"""The rules of model types, one function each; `registry` finds the one of a config."""
