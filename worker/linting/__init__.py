"""The rules of `bellhop lint`: what is wrong with event configs and templates before anybody is notified.

`worker.lint` runs them. Each module is a function or two from the catalogue to findings.
"""
