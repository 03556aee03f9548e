"""The ground that the validator, the engines and every other package stand on.

Needs the standard library and numpy. All imports inside are relative, so that the folder runs from
any place under any package name.
"""
