"""The gateway as the controller decides it: which instances there are, which models, which servers each has.

``found`` makes rows of the instances that a host serves, ``plan`` makes of all hosts' rows and of what is declared the
plan that ``templates/haproxy.cfg.j2`` of role gateway prints. Nothing here asks a host.
"""
