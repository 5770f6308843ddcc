"""Code that hosts and the controller both need, for Python 3.9 and its standard library alone.

``nexus_tasks/hostlib`` is a link to this folder. Inside it imports are relative: a file has a name in each of the two.
"""
