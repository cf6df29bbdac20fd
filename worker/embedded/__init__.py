"""The no-server default behind `bellhop demo` and `bellhop up`: the production code paths, with servers of its own.

Redis, a mail catcher, the worker, beat and Flower run as children of one command and end with it. For trying things
out and for a single machine, not for a cluster: there, give each its own service manager and set the URLs.
"""
